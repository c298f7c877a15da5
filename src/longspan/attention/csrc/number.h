// The two kinds of numbers that matrix products take, and how operands are laid out for them.
//
// A product walks along its depth in *words* of 32 bits. In float32 a word is one number; in
// bfloat16 it is a pair of neighbours along the depth, which one instruction multiplies and adds
// into float32 (VDPBF16PS; two where a processor lacks it). Everything else is the same code.
// Three layouts follow:
//
//   rows        [row][word]         the left operand; depth along the row
//   transposed  [word][row]         the right operand whose depth is the head's size: K, V
//   stacked     [row / pair][head]  the right operand whose depth is the rows: V, K, Q, dO
//
// In float32, where a word is a number, `rows` and `stacked` are the same.
//
// Rows are padded with zeros, to multiples of kLanes, so that no product needs a remainder.
#pragma once

#include <c10/util/BFloat16.h>

#include <algorithm>
#include <type_traits>

#include "vector.h"

namespace longspan {

using Word = uint32_t;

inline int64_t round_up(int64_t x, int64_t multiple) {
  return (x + multiple - 1) / multiple * multiple;
}

// As many ones as there are numbers left, at most all.
inline __mmask16 first_of_16(int64_t left) {
  return left >= 16 ? 0xffff : static_cast<__mmask16>((1u << std::max<int64_t>(left, 0)) - 1);
}

inline __mmask32 first_of_32(int64_t left) {
  return left >= 32 ? 0xffffffff
                    : static_cast<__mmask32>((uint64_t{1} << std::max<int64_t>(left, 0)) - 1);
}

struct Float32 {
  using Element = float;
  static constexpr int64_t kPerWord = 1;
  // 16 words of a row of `size` numbers, zero behind its end.
  static __m512i words(const float* row, int64_t word, int64_t size) {
    return _mm512_maskz_loadu_epi32(first_of_16(size - word), row + word);
  }
  // 16 numbers of a row.
  static Vector numbers(const float* row, int64_t i, int64_t size) {
    return _mm512_castsi512_ps(words(row, i, size));
  }
  static Vector multiply_add(Vector sum, Word a, const Word* b) {
    const Vector broadcast = _mm512_castsi512_ps(_mm512_set1_epi32(static_cast<int>(a)));
    return _mm512_fmadd_ps(broadcast, load(reinterpret_cast<const float*>(b)), sum);
  }
};

struct BFloat16 {
  using Element = c10::BFloat16;
  static constexpr int64_t kPerWord = 2;
  static __m512i words(const Element* row, int64_t word, int64_t size) {
    return _mm512_maskz_loadu_epi16(first_of_32(size - 2 * word), row + 2 * word);
  }
  static __m512i halves(const Element* row, int64_t i, int64_t size) {
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_of_16(size - i), row + i));
  }
  static Vector numbers(const Element* row, int64_t i, int64_t size) {
    return low_halves(halves(row, i, size));
  }
  // a bfloat16 is the upper half of the float32 of the same value
  static Vector low_halves(__m512i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }
  static Vector high_halves(__m512i x) {
    const __m512i mask = _mm512_set1_epi32(static_cast<int>(0xffff0000));
    return _mm512_castsi512_ps(_mm512_and_si512(x, mask));
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
  for (int64_t i = 0; i < padded_count; ++i) {
    for (int64_t word = 0; word < head.words; word += kLanes) {
      const __m512i x =
          i < count ? Number::words(source[i], word, head.size) : _mm512_setzero_si512();
      _mm512_storeu_si512(target + i * head.words + word, x);
    }
  }
}

// [word][row], `width` rows wide: a multiple of kLanes, zero from `count` on.
template <class Number>
void pack_transposed(
    Rows<const typename Number::Element> source, int64_t count, int64_t width,
    HeadSize<Number> head, Word* target) {
  for (int64_t i = 0; i < width; i += kLanes) {
    for (int64_t word = 0; word < head.words; word += kLanes) {
      __m512i block[kLanes];
      for (int64_t row = 0; row < kLanes; ++row) {
        block[row] = i + row < count ? Number::words(source[i + row], word, head.size)
                                     : _mm512_setzero_si512();
      }
      transpose_words(block);
      for (int64_t row = 0; row < kLanes; ++row) {
        _mm512_storeu_si512(target + (word + row) * width + i, block[row]);
      }
    }
  }
}

// [row / pair][head size]; in bfloat16 two rows interleave. Zero from row `count` on.
template <class Number>
void pack_stacked(
    Rows<const typename Number::Element> source, int64_t count, int64_t padded_count,
    HeadSize<Number> head, Word* target) {
  if constexpr (std::is_same_v<Number, Float32>) {
    pack_rows(source, count, padded_count, head, target);
  } else {
    for (int64_t i = 0; i < padded_count; i += 2) {
      for (int64_t e = 0; e < head.padded; e += kLanes) {
        const auto half = [&](int64_t row) {
          return row < count ? Number::halves(source[row], e, head.size) : _mm512_setzero_si512();
        };
        const __m512i pairs = _mm512_or_si512(half(i), _mm512_slli_epi32(half(i + 1), 16));
        _mm512_storeu_si512(target + i / 2 * head.padded + e, pairs);
      }
    }
  }
}

}  // namespace longspan
