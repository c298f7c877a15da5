// What happens to the scores of a block of queries, row by row: masks and softmax.
#pragma once

#include <cmath>
#include <limits>

#include "segments.h"

namespace longspan {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Which keys of a chunk each query of a block sees: [first, last) without [hole_first, hole_last).
struct Mask {
  Tiles tiles;
  int64_t first[kBlockRows], last[kBlockRows];
  int64_t hole_first[kBlockRows], hole_last[kBlockRows];

  bool empty() const {
    for (int64_t t = 0; t < tiles.count; ++t) {
      if (tiles.first[t] < tiles.last[t]) return false;
    }
    return true;
  }
};

inline void start_mask(Mask& mask, int64_t rows, int64_t keys) {
  mask.tiles.rows = rows;
  mask.tiles.keys = keys;
  mask.tiles.count = (rows + kTileRows - 1) / kTileRows;
  for (int64_t t = 0; t < mask.tiles.count; ++t) {
    mask.tiles.first[t] = 0;
    mask.tiles.last[t] = round_up(keys, kLanes);
  }
  for (int64_t r = 0; r < kBlockRows; ++r) {
    mask.first[r] = mask.hole_first[r] = mask.hole_last[r] = 0;
    mask.last[r] = keys;
  }
}

// Queries from `query` on, keys from `key` on: those within the window.
inline void mask_window(
    Mask& mask, const Document& document, int64_t query, int64_t rows, int64_t key, int64_t keys) {
  start_mask(mask, rows, keys);
  for (int64_t r = 0; r < rows; ++r) {
    mask.first[r] = std::clamp<int64_t>(query + r - document.window - key, 0, keys);
    mask.last[r] = std::clamp<int64_t>(query + r + document.ahead + 1 - key, 0, keys);
  }
  for (int64_t t = 0; t < mask.tiles.count; ++t) {
    const int64_t last_row = t * kTileRows + mask.tiles.rows_of(t) - 1;
    mask.tiles.first[t] = mask.first[t * kTileRows] / kLanes * kLanes;
    mask.tiles.last[t] = round_up(mask.last[last_row], kLanes);
    // of the first row's keys and the last row's, all lie between: windows slide
    if (mask.first[t * kTileRows] >= mask.last[last_row]) mask.tiles.last[t] = mask.tiles.first[t];
  }
}

// Queries from `query` on, some of the document's global tokens: those outside the window.
inline void mask_far(
    Mask& mask, const Document& document, int64_t query, int64_t rows, const int64_t* globals,
    int64_t keys) {
  start_mask(mask, rows, keys);
  bool any = false;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t* end = globals + keys;
    mask.hole_first[r] = std::lower_bound(globals, end, query + r - document.window) - globals;
    mask.hole_last[r] = std::upper_bound(globals, end, query + r + document.ahead) - globals;
    any |= mask.hole_last[r] - mask.hole_first[r] < keys;
  }
  if (!any) std::fill_n(mask.tiles.last, mask.tiles.count, 0);
}

// Put -inf where row r sees no key, within the range that its tile computed.
inline void hide(const Mask& mask, int64_t r, float* scores) {
  const int64_t first = mask.tiles.first[r / kTileRows];
  const int64_t last = mask.tiles.last[r / kTileRows];
  const int64_t left = std::clamp(mask.first[r], first, last);
  const int64_t right = std::clamp(mask.last[r], left, last);
  std::fill(scores + first, scores + left, -kInfinity);
  std::fill(scores + right, scores + last, -kInfinity);
  std::fill(scores + mask.hole_first[r], scores + mask.hole_last[r], -kInfinity);
}

// Floats as bfloat16, rounded to nearest, ties to even.
inline __m256i rounded(Vector x) {
#ifdef __AVX512BF16__
  return reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(x));
#else
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  // adding would turn some NaNs into infinity
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  const __m512i result = _mm512_mask_mov_epi32(up, is_nan, _mm512_set1_epi32(0x7fc00000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(result, 16));
#endif
}

inline void store_rounded(Word* target, Vector x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), rounded(x));
}

// Pairs along the rows, as words.
inline __m512i paired(Vector even, Vector odd) {
  const __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded(odd)), 16);
  return _mm512_or_si512(_mm512_cvtepu16_epi32(rounded(even)), high);
}

// Sum of products over a head.
template <class Number>
float dot(const typename Number::Element* x, const typename Number::Element* y, int64_t size) {
  Vector sums = _mm512_setzero_ps();
  for (int64_t e = 0; e < size; e += kLanes) {
    sums = _mm512_fmadd_ps(Number::numbers(x, e, size), Number::numbers(y, e, size), sums);
  }
  return sum(sums);
}

// One step of the online softmax (Milakov & Gimelshein 2018): scores of row r become
// probabilities relative to the largest score so far. Returns the factor of all earlier sums.
template <class Number>
float softmax_row(
    const Mask& mask, int64_t r, float* scores, Word* probabilities, float& largest_score,
    float& total) {
  const int64_t first = mask.tiles.first[r / kTileRows];
  const int64_t last = mask.tiles.last[r / kTileRows];
  hide(mask, r, scores);
  Vector largest_here = fill(largest_score);
  for (int64_t j = first; j < last; j += kLanes) {
    largest_here = maximum(load(scores + j), largest_here);
  }
  const float before = largest_score;
  largest_score = largest(largest_here);
  // a row that saw no key yet: any finite shift makes zeros of -inf
  const float shift = largest_score == -kInfinity ? 0.0f : largest_score;
  const Vector shifts = fill(shift);
  Vector sums = _mm512_setzero_ps();
  for (int64_t j = first; j < last; j += kLanes) {
    const Vector p = exponential(_mm512_sub_ps(load(scores + j), shifts));
    sums = _mm512_add_ps(sums, p);
    if constexpr (Number::kPerWord == 1) {
      store(reinterpret_cast<float*>(probabilities) + j, p);
    } else {
      store_rounded(probabilities + j / 2, p);
    }
  }
  // nothing to shrink where the largest stays, or where there was none: the sums are zero
  const float factor = before == shift || before == -kInfinity ? 1.0f : std::exp(before - shift);
  total = total * factor + sum(sums);
  return factor;
}

}  // namespace longspan
