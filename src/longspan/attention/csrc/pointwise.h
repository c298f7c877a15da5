// What happens to single numbers beside attention: each is one pass over memory.
#pragma once

#include <ATen/core/Tensor.h>

#include "rows.h"

namespace longspan {

// Turn coordinate i of each head with coordinate i + size / 2, in place (RoFormer, Su et al. 2021,
// section 3.2.2; laid out as GPT-NeoX does). x is (T, heads, size) with a last stride of 1; cos and
// sin are (T, size / 2) and contiguous. `sign` -1 turns back.
template <class Number>
void rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, float sign);

// Numbers of x that stay, times 1 / (share that stays), zeros elsewhere. Which ones stay is computed
// of `seed` and their place anew each time: the same for a gradient, and nothing need be kept.
template <class Number>
at::Tensor drop(const at::Tensor& x, int64_t seed, int64_t threshold);

}  // namespace longspan
