"""Extreme numbers and layouts through whole layers: finite, and as near the truth as ever."""

import numpy as np
import pytest
import torch
from torch import nn

from longspan.attention import AttentionPlan, Pattern, reference
from longspan.batch import Feature, pack
from longspan.model.absorbed import absorbed_rows
from longspan.model.chunked import encode_in_chunks

LARGE = 1e4


@pytest.mark.parametrize("shift", [0.0, -LARGE, LARGE])
@pytest.mark.parametrize("size", [1.0, LARGE], ids=["usual", "large"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_absorbed_rows_err_as_little_as_projected_ones(shift, size, dtype):
    """Rows whose keys are all far below or above, hidden states of 1e4, a document of one token."""
    generator = torch.Generator().manual_seed(0)
    heads, head_size, hidden, lengths, counts = 4, 8, 32, [1, 60, 7], [1, 2, 1]
    bounds = torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)
    index = torch.tensor([0, 1, 30, 61])
    x = size * torch.randn(68, hidden, generator=generator, dtype=torch.float64)
    x[:, 0] = 1.0  # the first hidden number moves all scores of a head alike
    linear = nn.Linear(hidden, 3 * heads * head_size).double()
    with torch.no_grad():
        linear.weight[:, 0] = 0.0
        linear.weight[: heads * head_size, 1:] /= size**2  # scores of size 1 beside the shift
        linear.bias[: heads * head_size : head_size] = 100.0
        linear.weight[heads * head_size : 2 * heads * head_size : head_size, 0] = (
            shift / 100.0 * head_size**0.5
        )
    plan = AttentionPlan(bounds, torch.zeros(68, dtype=torch.bool), Pattern(None))
    truth = _projected(linear, x, plan, heads, head_size)[index]

    def error(compute, *arguments):
        own = linear.float()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            parameter = x.float().requires_grad_()
            out = compute(own, parameter, *arguments)
        out = out if len(out) == len(index) else out[index]
        (gradient,) = torch.autograd.grad(out.float().sum(), parameter)
        assert out.isfinite().all()
        assert gradient.isfinite().all()
        return (out.double() - truth).abs().max()

    yard = error(_projected, plan, heads, head_size)
    found = error(absorbed_rows, index, counts, plan, None, heads, head_size)
    assert found <= 4 * yard + 4 * torch.finfo(dtype).eps * truth.abs().max()


def _projected(linear, x, plan, heads, head_size):
    q, k, v = linear(x).view(len(x), -1, head_size).split(heads, dim=1)
    return reference.local_attention(q, k, v, plan, 0.0, head_size**-0.5)


LAYOUTS = {
    "one token": ([1], ()),
    "documents of one token": ([1] * 7, (0,)),
    "no global token": ([30, 1, 5], ()),
    "all global": ([30, 1, 5], range(30)),
}


@pytest.mark.parametrize("shape", [
    {}, {"global_projections": "separate"}, {"attention_backend": "blocked"},
    {"norm_position": "post", "norm": "rmsnorm"},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("window", [0, 1, None])
def test_hidden_states_of_1e4_in_bfloat16(make_encoder, shape, window):
    """Forward, backward, and chunk by chunk."""
    for lengths, positions in LAYOUTS.values():
        encoder = make_encoder(window=window, **shape)
        with torch.no_grad():
            encoder.token_embedding.weight *= LARGE
            for layer in encoder.layers:
                layer.attention.out.weight *= LARGE
        batch = pack([
            Feature(str(n), np.arange(length), np.array([p for p in positions if p < length], int))
            for n, length in enumerate(lengths)
        ])  # fmt: skip
        with torch.autocast("cpu", torch.bfloat16):
            hidden = encoder(batch)
            rows = encoder(batch, batch.cu_seqlens[:-1].long())
            with torch.no_grad():
                chunked = encode_in_chunks(encoder, batch, 4)
        assert all(x.isfinite().all() for x in (hidden, rows, chunked))
        for output in (hidden, rows):
            encoder.zero_grad()
            output.float().square().sum().backward()
            assert all(p.grad.isfinite().all() for p in encoder.parameters() if p.grad is not None)
