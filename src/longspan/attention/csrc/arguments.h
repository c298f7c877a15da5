// What the operators get: tensors as plain pointers and strides, sizes, and the tasks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdlib>
#include <memory>
#include <new>

#include "rows.h"

namespace longspan {

// A (tokens, heads, head size) tensor; the last stride is 1.
template <class Element>
struct Heads {
  Element* data = nullptr;
  int64_t token_stride = 0;
  int64_t head_stride = 0;

  Heads() = default;
  // without PyTorch's check for writers: outputs are new, inputs have const elements
  explicit Heads(const at::Tensor& x)
      : data(static_cast<Element*>(const_cast<void*>(x.const_data_ptr()))),
        token_stride(x.stride(0)),
        head_stride(x.stride(1)) {}

  // Of one head, from a token on; with `index`, those tokens counted from there.
  Rows<Element> rows(int64_t head, int64_t token, const int64_t* index = nullptr) const {
    return {data + token * token_stride + head * head_stride, token_stride, index};
  }
};

// Memory of one thread: not initialised, at the start of a cache line.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t size) : data_(allocate(size), &std::free) {
    if (!data_) throw std::bad_alloc();
  }
  operator T*() const { return data_.get(); }

 private:
  static T* allocate(int64_t size) {
    const int64_t bytes = std::max<int64_t>(size * sizeof(T), 1);
    return static_cast<T*>(std::aligned_alloc(64, round_up(bytes, 64)));
  }

  std::unique_ptr<T, void (*)(void*)> data_;
};

template <class Number>
struct Arguments {
  using Element = typename Number::Element;
  Segments all;
  int64_t num_tokens, num_heads, num_kv_heads;
  HeadSize<Number> head;
  float scale;
  bool separate;  // global queries have projections of their own
  Heads<const Element> q, k, v, global_q, global_k, global_v;

  int64_t group() const { return num_heads / num_kv_heads; }
  int64_t num_tasks() const { return static_cast<int64_t>(all.segments.size()) * num_kv_heads; }
  double work() const {
    double pairs = 0;
    for (const Document& d : all.documents) {
      const double keys = std::min<int64_t>(d.length, d.window + d.ahead + 1) + d.num_globals();
      pairs += keys * d.length + static_cast<double>(d.num_globals()) * d.length;
    }
    return pairs * num_heads * head.padded;
  }

  Rows<const Element> global_queries(int64_t h, const Document& document, int64_t g) const {
    return separate ? global_q.rows(h, document.first_global + g)
                    : q.rows(h, document.start, document.globals.data() + g);
  }
};

template <class Number>
Arguments<Number> read_arguments(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const std::optional<at::Tensor>& global_q, const std::optional<at::Tensor>& global_k,
    const std::optional<at::Tensor>& global_v, const at::Tensor& cu_seqlens,
    const at::Tensor& global_index, std::optional<int64_t> window, bool causal, double scale) {
  using Element = const typename Number::Element;
  Arguments<Number> a{
      cut(cu_seqlens.const_data_ptr<int32_t>(), cu_seqlens.numel() - 1,
          global_index.const_data_ptr<int64_t>(), global_index.numel(), window, causal, k.size(1),
          global_q.has_value()),
      q.size(0),
      q.size(1),
      k.size(1),
      HeadSize<Number>(q.size(2)),
      static_cast<float>(scale),
      global_q.has_value()};
  a.q = Heads<Element>(q);
  a.k = Heads<Element>(k);
  a.v = Heads<Element>(v);
  if (a.separate) {
    a.global_q = Heads<Element>(*global_q);
    a.global_k = Heads<Element>(*global_k);
    a.global_v = Heads<Element>(*global_v);
  }
  return a;
}

// x * factor in the tensor's own dtype.
template <class Element>
void write_row(const float* x, float factor, int64_t size, Element* row) {
  for (int64_t e = 0; e < size; e += kLanes) {
    const __mmask16 inside = first_of_16(size - e);
    const Vector scaled = _mm512_mul_ps(_mm512_maskz_loadu_ps(inside, x + e), fill(factor));
    if constexpr (std::is_same_v<Element, float>) {
      _mm512_mask_storeu_ps(row + e, inside, scaled);
    } else {
      _mm256_mask_storeu_epi16(row + e, inside, rounded(scaled));
    }
  }
}

}  // namespace longspan
