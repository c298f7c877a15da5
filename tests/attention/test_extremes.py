"""Numbers and layouts at the edge of what there is: finite, and as near the truth as ever."""

import pytest
import torch

from longspan.attention import running

LARGE = 1e4
# lengths of the documents, global tokens, window
LAYOUTS = {
    "one token": ([1], [0], 1),
    "documents of one token": ([1] * 9, [2, 3], 0),
    "all global": ([5, 130, 1], range(136), 3),
    "window of none": ([70, 3], [0, 70], 0),
    "window of one": ([70, 3], [1], 1),
    "full": ([40, 1], [7], None),
    "several chunks": ([300], [0, 150], 1),
}


def far_below(q, k, v):
    """All scores -1e4 and a little: no key stands out, and exp(score) is 0 of each."""
    q, k = q.clone(), k.clone()
    q[..., 0] = 128.0
    k[..., 0] = -LARGE / 128 * q.shape[-1] ** 0.5
    return q, k, v


def far_apart(q, k, v):
    """Scores of 1e4 and -1e4 in turns, so that windows may hold the low ones only."""
    q, k, v = far_below(q, k, v)
    k[::3, ..., 0] *= -1
    return q, k, v


def first_far_below(q, k, v):
    """The first chunks of a row are worth nothing beside its last key."""
    q, k, v = far_below(q, k, v)
    k[-1, ..., 0] *= -1
    return q, k, v


def large_values(q, k, v):
    return q, k, LARGE * v


def all_large(q, k, v):
    """Scores of 1e4, each of its own: one key takes all."""
    return 100 * q, 100 * k, LARGE * v


def beyond(q, k, v):
    """Scores of 1e8: an error of one rounding is several nats by now."""
    return LARGE * q, LARGE * k, LARGE * v


def all_zero(q, k, v):
    """Keys that are all alike."""
    return q * 0, k * 0, v * 0


NUMBERS = [far_below, far_apart, first_far_below, large_values, all_large, all_zero]


@pytest.mark.parametrize("numbers", [*NUMBERS, beyond], ids=lambda function: function.__name__)
@pytest.mark.parametrize("separate", [False, True], ids=["shared", "separate"])
def test_finite_and_within_the_error_of_the_oracle(
    any_backend_and_dtype, numbers, separate, make_plan, make_qkv, run, assert_agrees
):
    backend, dtype = any_backend_and_dtype
    for name, layout in LAYOUTS.items():
        plan = make_plan(*layout)
        qkv, global_qkv = make_qkv(plan, 4, 2, 8, dtype, separate)
        qkv = [x.to(dtype) for x in numbers(*qkv)]
        global_qkv = global_qkv and [x.to(dtype) for x in numbers(*global_qkv)]
        found = run(qkv, global_qkv, plan, dtype, backend)
        if backend == "blocked" and numbers is beyond:
            # PyTorch's own kernel adds up scores anew, in another order: its gradients overflow
            found = {"out": found["out"]}
        for what, x in found.items():
            assert x.isfinite().all(), f"{name}: {what}"
        # a mean of values lies among them
        values = torch.cat([x.flatten() for x in (qkv[2], *(global_qkv or ())[2:])])
        assert found["out"].abs().max() <= values.abs().max() * (1 + 8 * torch.finfo(dtype).eps)
        if backend != "reference" and numbers is not beyond:
            assert_agrees(plan, qkv, global_qkv, dtype, backend=backend, recomputes=True)


@pytest.mark.parametrize("numbers", NUMBERS, ids=lambda function: function.__name__)
@pytest.mark.parametrize("parts", [[64], [1, 62, 1], [1] * 64], ids=["at once", "three", "each"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_softmax_that_keeps_nothing(numbers, parts, dtype, make_plan, make_qkv, run):
    plan = make_plan([64], range(64), None)
    qkv, _ = make_qkv(plan, 4, 2, 8, dtype)
    q, k, v = (x.to(dtype) for x in numbers(*qkv))
    attention = running.RunningAttention(q, 2)
    for k_part, v_part in zip(k.split(parts), v.split(parts), strict=True):
        attention.see(k_part, v_part)
    truth, oracle = (run((q, k, v), None, plan, x)["out"] for x in (torch.float64, dtype))
    error, yard = ((x.double() - truth).abs().max() for x in (attention.result(), oracle))
    assert attention.result().isfinite().all()
    assert error <= 4 * yard + 2 * torch.finfo(dtype).eps * v.abs().max()
