"""What the tests of attention share: the backends, packed batches small and large, inputs."""

from itertools import accumulate, product

import pytest
import torch
from hypothesis import strategies as st

from longspan.attention import AttentionPlan, Pattern, attend, native

DTYPES = [torch.float64, torch.float32, torch.bfloat16]
# all that are held against the oracle, and what they compute in
BACKENDS = {
    "blocked": DTYPES,
    "native": [torch.float32, torch.bfloat16],
    "flex": [torch.float32, torch.bfloat16],
}
# of these every size of heads is compiled anew, in some ten seconds
SLOW = {
    "flex": [
        pytest.mark.slow,
        # PyTorch's compiler warns of PyTorch itself
        pytest.mark.filterwarnings("ignore:.*script_method.*:DeprecationWarning"),
    ]
}


def _skip_where_it_cannot_run(backend):
    if backend == "native" and (reason := native.unavailable()):
        pytest.skip(reason)
    return backend


def _params(names):
    return [pytest.param(name, marks=SLOW.get(name, ())) for name in names]


@pytest.fixture(scope="session", params=_params(BACKENDS))
def backend(request):
    return _skip_where_it_cannot_run(request.param)


@pytest.fixture(scope="session", params=_params(["reference", *BACKENDS]))
def any_backend(request):
    return _skip_where_it_cannot_run(request.param)


@pytest.fixture(scope="session", params=["reference", "blocked"])
def backend_with_dropout(request):
    return request.param


@pytest.fixture(scope="session")
def finest_dtype():
    """The most precise dtype that a backend computes in."""
    return lambda backend: BACKENDS.get(backend, DTYPES)[0]


def _pairs(backends):
    pairs = [(name, dtype) for name, dtypes in backends.items() for dtype in dtypes]
    params = [pytest.param(pair, marks=SLOW.get(pair[0], ())) for pair in pairs]
    return {"params": params, "ids": [f"{name}-{dtype}" for name, dtype in pairs]}


@pytest.fixture(scope="session", **_pairs(BACKENDS))
def backend_and_dtype(request):
    _skip_where_it_cannot_run(request.param[0])
    return request.param


@pytest.fixture(scope="session", **_pairs({"reference": DTYPES} | BACKENDS))
def any_backend_and_dtype(request):
    _skip_where_it_cannot_run(request.param[0])
    return request.param


@pytest.fixture(scope="session")
def make_plan():
    return _make_plan


@pytest.fixture(scope="session")
def small_layouts():
    """Every way to cut `num_tokens` tokens into documents, with windows from none to beyond all
    of them, and no token, the first, all or every other one global: arguments of `make_plan`."""

    def layouts(num_tokens):
        places = range(num_tokens)
        windows = [*range(num_tokens + 2), None]
        for lengths in _compositions(num_tokens):
            for window, chosen in product(windows, [[], [0], places, places[1::2]]):
                yield lengths, list(chosen), window

    return layouts


@pytest.fixture(scope="session")
def plans():
    """Strategy of plans: up to 4 documents, windows of no, few, most and more than all tokens,
    and any tokens global. Long enough that a backend cuts them into several blocks."""
    return st.builds(_make_plan, *_layout(max_length=250))


@pytest.fixture(scope="session")
def short_plans():
    """As `plans`, with documents of up to 12 tokens."""
    return st.builds(_make_plan, *_layout(max_length=12))


@pytest.fixture(scope="session")
def make_qkv():
    """Random q (T, H, E), k and v (T, K, E), and where asked for those of the global tokens."""

    def make(plan, num_heads=2, num_kv_heads=2, head_size=8, dtype=torch.float64, separate=False):
        def tensor(tokens, heads):
            return torch.randn(tokens, heads, head_size, generator=generator).to(dtype)

        generator = torch.Generator().manual_seed(plan.num_tokens)
        num_tokens, num_globals = plan.num_tokens, len(plan.global_index)
        qkv = [tensor(num_tokens, heads) for heads in (num_heads, num_kv_heads, num_kv_heads)]
        if not separate:
            return qkv, None
        sizes = [(num_globals, num_heads), (num_tokens, num_kv_heads), (num_tokens, num_kv_heads)]
        return qkv, [tensor(*size) for size in sizes]

    return make


@pytest.fixture(scope="session")
def run():
    return _run


@pytest.fixture(scope="session")
def assert_agrees():
    return _assert_agrees


def _make_plan(lengths, global_positions, window):
    """The plan of documents of these lengths.

    Positions count from the start of the batch; those behind its end begin again at 0.
    """
    num_tokens = sum(lengths)
    global_mask = torch.zeros(num_tokens, dtype=torch.bool)
    global_mask[[position % num_tokens for position in global_positions]] = True
    cu_seqlens = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
    return AttentionPlan(cu_seqlens, global_mask, Pattern(window))


def _layout(max_length):
    """Strategies of the arguments of `_make_plan`."""
    lengths = st.lists(st.integers(1, max_length), min_size=1, max_size=4)
    position = st.integers(0, 4 * max_length - 1)
    few = st.lists(position, max_size=4)
    every = st.just(range(4 * max_length))
    window = st.one_of(
        st.integers(0, 4), st.integers(0, max_length + 2), st.just(10 * max_length), st.none()
    )
    return lengths, st.one_of(few, every), window


def _compositions(total):
    """All lists of positive integers with this sum."""
    if total == 0:
        yield []
    for first in range(1, total + 1):
        for rest in _compositions(total - first):
            yield [first, *rest]


def _run(qkv, global_qkv, plan, dtype=torch.float64, backend="reference", **arguments):
    """`attend` forward and backward: its output and the gradients of all that went in, by name.

    Of flex its output alone: on the CPU it has no backward.
    """
    names = ("q", "k", "v", "global q", "global k", "global v")
    differentiates = backend != "flex"
    inputs = [x.to(dtype).requires_grad_(differentiates) for x in (*qkv, *(global_qkv or ()))]
    out = attend(
        *inputs[:3], plan, global_qkv=tuple(inputs[3:]) or None, backend=backend, **arguments
    )
    if not differentiates:
        return {"out": out}
    gradients = torch.autograd.grad(out, inputs, _gradient_of(out), materialize_grads=True)
    return {"out": out.detach(), **dict(zip(names, gradients))}


def _gradient_of(out):
    """Random, but always the same."""
    return torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)


def _assert_agrees(plan, qkv, global_qkv, dtype, scale=None, recomputes=False, **arguments):
    """Hold a backend to the error that the oracle itself makes in the same dtype.

    How large an honest error is depends on lengths, windows and dtype, so it is measured, not
    guessed: the truth is the oracle in float64 from the same rounded inputs, the yardstick the
    largest error of the oracle in `dtype` in each tensor (for float64: in float32, scaled). A
    backend adds in another order and may round the probabilities to the input's dtype before
    they meet the values (flash attention does), hence four times the yardstick. The oracle may
    be exact by luck, hence two roundings of the largest intermediate number on top.

    A backend that keeps log-sum-exps and `recomputes` probabilities in its backward pass has them
    off by the rounding of a score, which counts where scores are large: in gradients, that much on
    top.
    """
    yardstick = torch.float32 if dtype == torch.float64 else dtype
    scaled = torch.finfo(dtype).eps / torch.finfo(yardstick).eps
    truth = _run(qkv, global_qkv, plan, scale=scale)
    oracle = _run(qkv, global_qkv, plan, yardstick, scale=scale)
    ours = _run(qkv, global_qkv, plan, dtype, scale=scale, **arguments)
    largest = _largest_number(qkv, global_qkv, truth, scale)
    roundings = 2 * torch.finfo(dtype).eps * largest
    wide = torch.promote_types(dtype, torch.float32)
    of_scores = 2 * torch.finfo(wide).eps * _largest_score(qkv, global_qkv, scale) * largest
    for name, exact in truth.items():
        if name not in ours:
            continue
        assert ours[name].dtype == dtype
        if exact.numel():
            error, yard = ((x[name].double() - exact).abs().max() for x in (ours, oracle))
            budget = 4 * scaled * yard + roundings
            if recomputes and name != "out":
                budget = budget + of_scores
            assert error <= budget, f"{name}: error {error:.3g} exceeds {budget:.3g}"


def _largest_number(qkv, global_qkv, truth, scale):
    """A bound of what is added up on the way to the results.

    The gradient of a score is a difference of products of output gradients and values, and zero
    where a query sees one key; what is rounded are the products, times queries or keys.
    """
    q, k, v = (torch.cat([x.flatten(0, 1) for x in xs]) for xs in zip(qkv, global_qkv or qkv))
    products = _gradient_of(truth["out"]).norm(dim=-1).max() * v.norm(dim=-1).max()
    factor = torch.cat([q, k]).abs().max() * (scale or q.shape[-1] ** -0.5)
    return max(products * factor, *(x.abs().max() for x in truth.values() if x.numel()))


def _largest_score(qkv, global_qkv, scale):
    """A bound of them."""
    q, k = (
        torch.cat([x.double().flatten(0, 1) for x in xs])
        for xs in zip(qkv[:2], (global_qkv or qkv)[:2])
    )
    return q.norm(dim=-1).max() * k.norm(dim=-1).max() * (scale or q.shape[-1] ** -0.5)
