// Rotary positions and dropout.

#include "pointwise.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty_like.h>

namespace longspan {
namespace {

constexpr int64_t kGrain = 16384;  // numbers that are worth a thread

template <class Element>
void store_numbers(Element* target, __mmask16 inside, Vector x) {
  if constexpr (std::is_same_v<Element, float>) {
    _mm512_mask_storeu_ps(target, inside, x);
  } else {
    _mm256_mask_storeu_epi16(target, inside, rounded(x));
  }
}

// 32 random numbers of 16 bits: SplitMix64 (Steele, Lea & Flood 2014) of eight places in a row.
inline __m512i random_words(uint64_t seed, int64_t place) {
  const __m512i lane = _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0);
  const auto constant = [](uint64_t x) { return _mm512_set1_epi64(static_cast<int64_t>(x)); };
  __m512i z = _mm512_add_epi64(_mm512_set1_epi64(place), lane);
  z = _mm512_add_epi64(_mm512_mullo_epi64(z, constant(0x9e3779b97f4a7c15)), constant(seed));
  z = _mm512_xor_si512(z, _mm512_srli_epi64(z, 30));
  z = _mm512_mullo_epi64(z, constant(0xbf58476d1ce4e5b9));
  z = _mm512_xor_si512(z, _mm512_srli_epi64(z, 27));
  z = _mm512_mullo_epi64(z, constant(0x94d049bb133111eb));
  return _mm512_xor_si512(z, _mm512_srli_epi64(z, 31));
}

}  // namespace

template <class Number>
void rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, float sign) {
  using Element = typename Number::Element;
  const int64_t heads = x.size(1), half = x.size(2) / 2;
  Element* data = x.mutable_data_ptr<Element>();
  const float* all_cos = cos.const_data_ptr<float>();
  const float* all_sin = sin.const_data_ptr<float>();
  const int64_t token_stride = x.stride(0), head_stride = x.stride(1);
  const int64_t grain = std::max<int64_t>(1, kGrain / std::max<int64_t>(1, heads * half));
  at::parallel_for(0, x.size(0), grain, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      const float* token_cos = all_cos + t * half;
      const float* token_sin = all_sin + t * half;
      for (int64_t h = 0; h < heads; ++h) {
        Element* one = data + t * token_stride + h * head_stride;
        Element* other = one + half;
        for (int64_t e = 0; e < half; e += kLanes) {
          const __mmask16 inside = first_of_16(half - e);
          const Vector c = _mm512_maskz_loadu_ps(inside, token_cos + e);
          const Vector s = _mm512_mul_ps(_mm512_maskz_loadu_ps(inside, token_sin + e), fill(sign));
          const Vector a = Number::numbers(one, e, half), b = Number::numbers(other, e, half);
          store_numbers(one + e, inside, _mm512_fmsub_ps(a, c, _mm512_mul_ps(b, s)));
          store_numbers(other + e, inside, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
        }
      }
    }
  });
}

template <class Number>
at::Tensor drop(const at::Tensor& x, int64_t seed, int64_t threshold) {
  using Element = typename Number::Element;
  const at::Tensor out = at::empty_like(x);
  const Element* from = x.const_data_ptr<Element>();
  Element* to = out.mutable_data_ptr<Element>();
  const int64_t size = x.numel(), steps = (size + 31) / 32;
  const __m512i limit = _mm512_set1_epi16(static_cast<int16_t>(threshold));
  const Vector scale = fill(65536.0f / static_cast<float>(65536 - threshold));
  at::parallel_for(0, steps, kGrain / 32, [&](int64_t first, int64_t last) {
    for (int64_t step = first; step < last; ++step) {
      const __m512i words = random_words(static_cast<uint64_t>(seed), 8 * step);
      const __mmask32 stays = _mm512_cmpge_epu16_mask(words, limit);
      for (int64_t half = 0; half < 2; ++half) {
        const int64_t i = 32 * step + 16 * half;
        const auto keep = static_cast<__mmask16>(stays >> (16 * half));
        const Vector kept = _mm512_maskz_mul_ps(keep, Number::numbers(from, i, size), scale);
        store_numbers(to + i, first_of_16(size - i), kept);
      }
    }
  });
  return out;
}

template void rotate<Float32>(const at::Tensor&, const at::Tensor&, const at::Tensor&, float);
template void rotate<BFloat16>(const at::Tensor&, const at::Tensor&, const at::Tensor&, float);
template at::Tensor drop<Float32>(const at::Tensor&, int64_t, int64_t);
template at::Tensor drop<BFloat16>(const at::Tensor&, int64_t, int64_t);

}  // namespace longspan
