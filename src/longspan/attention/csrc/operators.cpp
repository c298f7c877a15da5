// The operators as PyTorch sees them. Shapes were checked by `attend`; native.py adds autograd.

#include <torch/library.h>

#include "operators.h"
#include "pointwise.h"

namespace longspan {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

// The kernels walk along heads one number at a time.
at::Tensor readable(const at::Tensor& x) { return x.stride(-1) == 1 ? x : x.contiguous(); }

MaybeTensor readable(const MaybeTensor& x) { return x ? MaybeTensor(readable(*x)) : x; }

template <class Call>
auto with_number(const at::Tensor& q, const Call& call) {
  if (q.scalar_type() == at::kFloat) return call(Float32());
  TORCH_CHECK(q.scalar_type() == at::kBFloat16, "longspan: float32 or bfloat16, not ", q.dtype());
  return call(BFloat16());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const MaybeTensor& global_q,
    const MaybeTensor& global_k, const MaybeTensor& global_v, const at::Tensor& cu_seqlens,
    const at::Tensor& global_index, std::optional<int64_t> window, bool causal,
    double scale) {
  return with_number(q, [&](auto number) {
    const at::Tensor queries = readable(q), keys = readable(k), values = readable(v);
    const MaybeTensor gq = readable(global_q), gk = readable(global_k), gv = readable(global_v);
    const at::Tensor bounds = cu_seqlens.contiguous(), globals = global_index.contiguous();
    const auto arguments = read_arguments<decltype(number)>(
        queries, keys, values, gq, gk, gv, bounds, globals, window, causal, scale);
    const Outputs outputs = forward(arguments, queries, global_index.numel());
    return std::tuple(outputs.out, outputs.lse, outputs.global_lse);
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> attention_backward(
    const at::Tensor& out_gradient, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const MaybeTensor& global_q, const MaybeTensor& global_k, const MaybeTensor& global_v,
    const at::Tensor& out, const at::Tensor& lse, const at::Tensor& global_lse,
    const at::Tensor& cu_seqlens, const at::Tensor& global_index, std::optional<int64_t> window,
    bool causal, double scale) {
  return with_number(q, [&](auto number) {
    const at::Tensor queries = readable(q), keys = readable(k), values = readable(v);
    const MaybeTensor gq = readable(global_q), gk = readable(global_k), gv = readable(global_v);
    const at::Tensor bounds = cu_seqlens.contiguous(), globals = global_index.contiguous();
    const at::Tensor gradient = readable(out_gradient);
    const auto arguments = read_arguments<decltype(number)>(
        queries, keys, values, gq, gk, gv, bounds, globals, window, causal, scale);
    const Gradients g =
        backward(arguments, Saved{gradient, out, lse, global_lse}, global_index.numel());
    return std::tuple(g.qkv, g.global_q, g.global_k, g.global_v);
  });
}

void rotate_in_place(at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, double sign) {
  TORCH_CHECK(x.stride(-1) == 1, "longspan: the coordinates of a head must lie side by side");
  const at::Tensor all_cos = cos.contiguous(), all_sin = sin.contiguous();
  with_number(x, [&](auto number) {
    rotate<decltype(number)>(x, all_cos, all_sin, static_cast<float>(sign));
  });
}

at::Tensor drop_numbers(const at::Tensor& x, int64_t seed, int64_t threshold) {
  const at::Tensor dense = x.contiguous();
  return with_number(x, [&](auto n) { return drop<decltype(n)>(dense, seed, threshold); });
}

TORCH_LIBRARY(longspan, library) {
  library.def(
      "attention(Tensor q, Tensor k, Tensor v, Tensor? global_q, Tensor? global_k, "
      "Tensor? global_v, Tensor cu_seqlens, Tensor global_index, int? window, bool causal, "
      "float scale) -> (Tensor out, Tensor lse, Tensor global_lse)");
  library.def(
      "attention_backward(Tensor out_gradient, Tensor q, Tensor k, Tensor v, Tensor? global_q, "
      "Tensor? global_k, Tensor? global_v, Tensor out, Tensor lse, Tensor global_lse, "
      "Tensor cu_seqlens, Tensor global_index, int? window, bool causal, float scale) -> "
      "(Tensor qkv, Tensor global_q, Tensor global_k, Tensor global_v)");
  library.def("rotate_(Tensor(a!) x, Tensor cos, Tensor sin, float sign) -> ()");
  library.def("drop(Tensor x, int seed, int threshold) -> Tensor");
}

TORCH_LIBRARY_IMPL(longspan, CPU, library) {
  library.impl("attention", attention);
  library.impl("attention_backward", attention_backward);
  library.impl("rotate_", rotate_in_place);
  library.impl("drop", drop_numbers);
}

}  // namespace
}  // namespace longspan
