"""Memory is linear in the tokens, forward and backward, for every backend but the oracle."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from longspan.attention import attend

WINDOW = 32


class Allocations(TorchDispatchMode):
    """The sizes, in elements, of all tensors that operations return while it is entered."""

    def __init__(self):
        super().__init__()
        self.sizes = [0]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):  # the storage: an expanded view takes no memory
                self.sizes.append(x.untyped_storage().nbytes() // x.element_size())
        return result


def largest_allocation(make_plan, num_tokens, backend, **arguments):
    inputs = [torch.randn(num_tokens, 1, 16, requires_grad=True) for _ in range(3)]
    lengths = [num_tokens // 4, num_tokens - num_tokens // 4]
    with Allocations() as allocations:
        plan = make_plan(lengths, [0, 7, num_tokens - 1], WINDOW)
        attend(*inputs, plan, backend=backend, **arguments).sum().backward()
    return max(allocations.sizes)


@pytest.mark.parametrize("dropout_p", [0.0, 0.1])
def test_no_tensor_grows_with_the_square_of_the_tokens(backend, dropout_p, make_plan):
    if backend == "native" and dropout_p:
        pytest.skip("native has no dropout")
    if backend == "flex":
        pytest.skip("flex has no backward on the CPU")
    half, whole = (
        largest_allocation(make_plan, n, backend, dropout_p=dropout_p) for n in (2048, 4096)
    )
    # a window of keys and a head's size of values for each token, not a document
    assert whole < 4096 * 4096 / 8
    assert 1.9 < whole / half < 2.1


@pytest.mark.parametrize("num_documents", [1, 64])
@pytest.mark.parametrize("all_global", [False, True])
def test_documents_and_globals_of_any_number(backend, num_documents, all_global, make_plan):
    if backend == "flex":
        pytest.skip("nobody sees what a compiled program allocates")
    lengths = [4096 // num_documents] * num_documents
    with Allocations() as allocations:
        plan = make_plan(lengths, range(4096) if all_global else [0], WINDOW)
        attend(*(torch.randn(4096, 1, 16) for _ in range(3)), plan, backend=backend)
    assert max(allocations.sizes) < 4096 * 4096 / 8


def test_the_gauge_sees_the_squares_of_the_oracle(make_plan):
    half, whole = (largest_allocation(make_plan, n, "reference") for n in (512, 1024))
    assert whole >= 1024 * 1024
    assert whole == 4 * half
