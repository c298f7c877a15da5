// The two kinds of numbers that matrix products take, and how operands are laid out for them.
//
// A product walks along its depth in *words* of 32 bits. In float32 a word is one number; in
// bfloat16 it is a pair of neighbours along the depth, which one instruction multiplies and adds
// into float32 (VDPBF16PS; two where a processor lacks it). Everything else is the same code. Three layouts follow:
//
//   rows        [row][word]         the left operand; depth along the row
//   transposed  [word][row]         the right operand whose depth is the head's size: K, V
//   stacked     [row / pair][head]  the right operand whose depth is the rows: V, K, Q, dO
//
// Rows are padded with zeros, to multiples of kLanes, so that no product needs a remainder.
#pragma once

#include <c10/util/BFloat16.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "vector.h"

namespace longspan {

using Word = uint32_t;

inline int64_t round_up(int64_t x, int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

struct Float32 {
  using Element = float;
  static constexpr int64_t kPerWord = 1;
  static Vector multiply_add(Vector sum, Word a, const Word* b) {
    const Vector broadcast = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(a)));
    return _mm512_fmadd_ps(broadcast, load(reinterpret_cast<const float*>(b)), sum);
  }
};

struct BFloat16 {
  using Element = c10::BFloat16;
  static constexpr int64_t kPerWord = 2;
  // a bfloat16 is the upper half of the float32 of the same value
  static Vector low_halves(__m512i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
  static Vector high_halves(__m512i x) {
    return _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
  }
  static Vector multiply_add(Vector sum, Word a, const Word* b) {
    const __m512i x = _mm512_set1_epi32(static_cast<int>(a));
    const __m512i y = _mm512_loadu_si512(b);
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(y));
#else
    sum = _mm512_fmadd_ps(low_halves(x), low_halves(y), sum);
    return _mm512_fmadd_ps(high_halves(x), high_halves(y), sum);
#endif
  }
};

// Rows of one head somewhere in a (tokens, heads, head size) tensor of any strides but the last,
// which is 1. With `index`, row i is token index[i].
template <class Element>
struct Rows {
  Element* data;
  int64_t stride;
  const int64_t* index = nullptr;
  Element* operator[](int64_t i) const { return data + (index ? index[i] : i) * stride; }
};

// The sizes of a head in the layouts above.
template <class Number>
struct HeadSize {
  int64_t size;    // E
  int64_t depth;   // words of a row that products walk along
  int64_t words;   // words from row to row
  int64_t padded;  // columns of a stacked operand and of an accumulator
  explicit HeadSize(int64_t head_size)
      : size(head_size),
        depth(round_up(head_size, Number::kPerWord) / Number::kPerWord),
        words(round_up(depth, kLanes)),
        padded(round_up(head_size, kLanes)) {}
};

// [row][word]; rows from `count` to `padded_count` are zero.
template <class Number>
void pack_rows(
    Rows<const typename Number::Element> source, int64_t count, int64_t padded_count,
    HeadSize<Number> head, Word* target) {
  const size_t bytes = head.size * sizeof(typename Number::Element);
  const size_t all_bytes = head.words * sizeof(Word);
  for (int64_t i = 0; i < padded_count; ++i) {
    char* row = reinterpret_cast<char*>(target + i * head.words);
    const size_t filled = i < count ? bytes : 0;
    if (filled) std::memcpy(row, source[i], filled);
    std::memset(row + filled, 0, all_bytes - filled);
  }
}

// [word][row], `width` rows wide: a multiple of kLanes, zero from `count` on.
template <class Number>
void pack_transposed(
    Rows<const typename Number::Element> source, int64_t count, int64_t width,
    HeadSize<Number> head, Word* scratch, Word* target) {
  for (int64_t i = 0; i < width; i += kLanes) {
    Rows<const typename Number::Element> rows = source;
    if (rows.index) {
      rows.index += i;
    } else {
      rows.data += i * rows.stride;
    }
    pack_rows(rows, std::max<int64_t>(0, std::min(kLanes, count - i)), kLanes, head, scratch);
    for (int64_t word = 0; word < head.words; word += kLanes) {
      transpose_words(scratch + word, head.words, target + word * width + i, width);
    }
  }
}

// [row / pair][head size]; in bfloat16 two rows interleave. Zero from row `count` on.
template <class Number>
void pack_stacked(
    Rows<const typename Number::Element> source, int64_t count, int64_t padded_count,
    HeadSize<Number> head, Word* target) {
  if constexpr (std::is_same_v<Number, Float32>) {
    for (int64_t i = 0; i < padded_count; ++i) {
      Word* row = target + i * head.padded;
      const int64_t filled = i < count ? head.size : 0;
      if (filled) std::memcpy(row, source[i], filled * sizeof(Word));
      std::memset(row + filled, 0, (head.padded - filled) * sizeof(Word));
    }
  } else {
    const auto half = [&](int64_t i, int64_t e) {
      const __mmask16 inside = e + kLanes <= head.size
          ? 0xffff
          : static_cast<__mmask16>((1u << (head.size - e)) - 1);
      const __m256i x = i < count ? _mm256_maskz_loadu_epi16(inside, source[i] + e)
                                  : _mm256_setzero_si256();
      return _mm512_cvtepu16_epi32(x);
    };
    for (int64_t i = 0; i < padded_count; i += 2) {
      Word* row = target + i / 2 * head.padded;
      for (int64_t e = 0; e < head.padded; e += kLanes) {
        const __m512i high = _mm512_slli_epi32(half(i + 1, e), 16);
        _mm512_storeu_si512(row + e, _mm512_or_si512(half(i, e), high));
      }
    }
  }
}

}  // namespace longspan
