// What operators.cpp calls.
#pragma once

#include "arguments.h"

namespace longspan {

struct Outputs {
  at::Tensor out;         // (T, H, E)
  at::Tensor lse;         // (H, T) log-sum-exp of the local rows; inf for global tokens
  at::Tensor global_lse;  // (H, G)
};

struct Saved {
  const at::Tensor& out_gradient;
  const at::Tensor& out;
  const at::Tensor& lse;
  const at::Tensor& global_lse;
};

struct Gradients {
  at::Tensor qkv;                           // (T, H + 2K, E): as a fused projection lays them out
  at::Tensor global_q, global_k, global_v;  // empty if shared
};

template <class Number>
Outputs forward(const Arguments<Number>& arguments, const at::Tensor& q, int64_t num_globals);

template <class Number>
Gradients backward(const Arguments<Number>& arguments, const Saved& saved, int64_t num_globals);

}  // namespace longspan
