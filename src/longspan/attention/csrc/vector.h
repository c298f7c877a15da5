// One AVX-512 register of floats and the few operations on it that attention needs.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace longspan {

using Vector = __m512;
constexpr int64_t kLanes = 16;

inline Vector load(const float* x) { return _mm512_loadu_ps(x); }
inline void store(float* x, Vector v) { _mm512_storeu_ps(x, v); }
inline Vector fill(float x) { return _mm512_set1_ps(x); }
inline Vector maximum(Vector a, Vector b) { return _mm512_max_ps(a, b); }
inline float largest(Vector v) { return _mm512_reduce_max_ps(v); }
inline float sum(Vector v) { return _mm512_reduce_add_ps(v); }

// e^x for x <= 88, within two units in the last place; exactly 0 for x < -104 and for -inf, so
// that a masked key contributes nothing. Polynomial of e^r on |r| <= ln(2) / 2 (Cephes, expf).
inline Vector exponential(Vector x) {
  x = _mm512_max_ps(fill(-120.0f), x);  // in this order a NaN stays one
  const Vector n = _mm512_roundscale_ps(
      _mm512_mul_ps(x, fill(1.44269504088896341f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  Vector r = _mm512_fnmadd_ps(n, fill(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, fill(-2.12194440e-4f), r);
  Vector p = fill(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, fill(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, fill(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, fill(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, fill(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, fill(5.0000001201e-1f));
  p = _mm512_fmadd_ps(_mm512_mul_ps(p, r), r, _mm512_add_ps(r, fill(1.0f)));
  return _mm512_scalef_ps(p, n);
}

// 16 x 16 words of 32 bits, in place: row i becomes column i.
inline void transpose_words(__m512i (&x)[16]) {
  __m512i y[16];
  // within each 128-bit quarter: 2 x 2 blocks of words, then of pairs of words
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
    y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
    x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
    x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
    x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
  }
  // then the 4 x 4 blocks of quarters: rows i, i + 4, i + 8, i + 12
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i low_left = _mm512_shuffle_i32x4(x[i], x[i + 4], 0x88);
    const __m512i high_left = _mm512_shuffle_i32x4(x[i], x[i + 4], 0xdd);
    const __m512i low_right = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x88);
    const __m512i high_right = _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xdd);
    y[i] = _mm512_shuffle_i32x4(low_left, low_right, 0x88);
    y[i + 8] = _mm512_shuffle_i32x4(low_left, low_right, 0xdd);
    y[i + 4] = _mm512_shuffle_i32x4(high_left, high_right, 0x88);
    y[i + 12] = _mm512_shuffle_i32x4(high_left, high_right, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) x[i] = y[i];
}

}  // namespace longspan
