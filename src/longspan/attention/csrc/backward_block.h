// The backward of one block of queries and one chunk of keys: five matrix products around a
// softmax. With p the probabilities, g the gradient of the output and delta the sum of g * out
// over a head (Dao et al. 2022, FlashAttention, appendix B.2):
//
//   dV = p^T g      ds = p * (g V^T - delta) * scale      dQ = ds K      dK = ds^T Q
#pragma once

#include "arguments.h"

namespace longspan {

// Packed keys and values that blocks look at, and where their gradients add up.
struct Keys {
  const Word* transposed_keys;
  const Word* transposed_values;
  const Word* stacked_keys;
  int64_t width;
  float* key_sums;
  float* value_sums;
};

// In the three layouts that a backward reads.
template <class Number>
struct PackedKeys {
  Buffer<Word> transposed_keys, transposed_values, stacked_keys;
  PackedKeys(int64_t keys, HeadSize<Number> head)
      : transposed_keys(keys * head.words),
        transposed_values(keys * head.words),
        stacked_keys(keys / Number::kPerWord * head.padded) {}
};

template <class Number>
class BackwardBlock {
 public:
  using Element = typename Number::Element;

  BackwardBlock(HeadSize<Number> head, float scale)
      : head_(head),
        scale_(scale),
        queries_(kBlockRows * head.words),
        gradients_(kBlockRows * head.words),
        stacked_queries_(kPairs == 1 ? 0 : kBlockRows / kPairs * head.padded),
        stacked_gradients_(kPairs == 1 ? 0 : kBlockRows / kPairs * head.padded),
        scores_(kScores),
        score_gradients_(kScores),
        stacked_probabilities_(kPairs == 1 ? 0 : kScores / kPairs),
        row_score_gradients_(kPairs == 1 ? 0 : kScores / kPairs),
        stacked_score_gradients_(kPairs == 1 ? 0 : kScores / kPairs),
        query_sums_(kBlockRows * head.padded) {}

  void start(
      Rows<const Element> queries, Rows<const Element> gradients, Rows<const Element> outputs,
      const float* lse, int64_t rows) {
    const int64_t padded_rows = round_up(rows, kTileRows);
    pack_rows(queries, rows, padded_rows, head_, queries_);
    pack_rows(gradients, rows, padded_rows, head_, gradients_);
    if constexpr (kPairs == 2) {
      pack_stacked(queries, rows, padded_rows, head_, stacked_queries_);
      pack_stacked(gradients, rows, padded_rows, head_, stacked_gradients_);
    }
    for (int64_t r = 0; r < rows; ++r) {
      lse_[r] = lse[r];
      delta_[r] = dot<Number>(gradients[r], outputs[r], head_.size);
    }
    std::fill_n(static_cast<float*>(query_sums_), padded_rows * head_.padded, 0.0f);
  }

  // One chunk of keys, from `offset` on: its part of all three gradients.
  void see(const Mask& mask, const Keys& keys, int64_t offset) {
    rows_by_keys(
        mask.tiles, queries_, head_, keys.transposed_keys + offset, keys.width, scores_, scale_);
    rows_by_keys(
        mask.tiles, gradients_, head_, keys.transposed_values + offset, keys.width,
        score_gradients_, 1.0f);
    for (int64_t r = 0; r < mask.tiles.rows; r += kPairs) softmax_gradients(mask, r);
    // in float32 one layout serves all, in place
    constexpr bool kInPlace = kPairs == 1;
    const Word* probabilities = kInPlace ? as_words(scores_) : stacked_probabilities_;
    const Word* row_ds = kInPlace ? as_words(score_gradients_) : row_score_gradients_;
    const Word* stacked_ds = kInPlace ? as_words(score_gradients_) : stacked_score_gradients_;
    weigh_rows<Number>(
        mask.tiles, probabilities, kInPlace ? gradients_ : stacked_gradients_, head_.padded,
        keys.value_sums + offset * head_.padded);
    weigh_rows<Number>(
        mask.tiles, stacked_ds, kInPlace ? queries_ : stacked_queries_, head_.padded,
        keys.key_sums + offset * head_.padded);
    weigh_keys<Number>(
        mask.tiles, row_ds, keys.stacked_keys + offset / kPairs * head_.padded, head_.padded,
        query_sums_);
  }

  // Gradient of a row's query.
  const float* query_sum(int64_t row) const { return query_sums_ + row * head_.padded; }

 private:
  static constexpr int64_t kPairs = Number::kPerWord;
  static constexpr int64_t kScores = kBlockRows * kChunkKeys;

  static const Word* as_words(const float* x) { return reinterpret_cast<const Word*>(x); }

  // Scores of row r, in bfloat16 of rows r and r + 1, become probabilities, and the gradients of
  // the probabilities those of the scores.
  void softmax_gradients(const Mask& mask, int64_t r) {
    const int64_t first = mask.tiles.first[r / kTileRows];
    const int64_t last = mask.tiles.last[r / kTileRows];
    const int64_t rows = std::min(kPairs, mask.tiles.rows - r);
    for (int64_t i = 0; i < rows; ++i) hide(mask, r + i, scores_ + (r + i) * kChunkKeys);
    for (int64_t j = first; j < last; j += kLanes) {
      Vector p[kPairs], ds[kPairs];
      for (int64_t i = 0; i < kPairs; ++i) {
        if (i >= rows) {  // beyond the block, where nothing was computed
          p[i] = ds[i] = _mm512_setzero_ps();
          continue;
        }
        const int64_t at = (r + i) * kChunkKeys + j;
        p[i] = exponential(_mm512_sub_ps(load(scores_ + at), fill(lse_[r + i])));
        const Vector centred = _mm512_sub_ps(load(score_gradients_ + at), fill(delta_[r + i]));
        ds[i] = _mm512_mul_ps(_mm512_mul_ps(p[i], fill(scale_)), centred);
        if constexpr (kPairs == 1) {
          store(scores_ + at, p[i]);
          store(score_gradients_ + at, ds[i]);
        } else {
          store_rounded(row_score_gradients_ + at / 2, ds[i]);
        }
      }
      if constexpr (kPairs == 2) {
        const int64_t at = r / 2 * kChunkKeys + j;
        _mm512_storeu_si512(stacked_probabilities_ + at, paired(p[0], p[1]));
        _mm512_storeu_si512(stacked_score_gradients_ + at, paired(ds[0], ds[1]));
      }
    }
  }

  HeadSize<Number> head_;
  float scale_;
  Buffer<Word> queries_, gradients_, stacked_queries_, stacked_gradients_;
  Buffer<float> scores_, score_gradients_;
  Buffer<Word> stacked_probabilities_, row_score_gradients_, stacked_score_gradients_;
  Buffer<float> query_sums_;
  float lse_[kBlockRows], delta_[kBlockRows];
};

}  // namespace longspan
