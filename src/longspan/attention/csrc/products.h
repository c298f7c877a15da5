// The three small matrix products of attention, over those keys only that a tile of rows sees.
#pragma once

#include <algorithm>

#include "number.h"

namespace longspan {

constexpr int64_t kBlockRows = 64;  // queries that share one visit to the keys
constexpr int64_t kTileRows = 8;    // of them, with one range of keys: 8 x 2 registers of sums
constexpr int64_t kTiles = kBlockRows / kTileRows;
constexpr int64_t kChunkKeys = 256;  // keys at a time, so that their scores stay in cache

// The keys of one chunk that each tile of a block sees: [first, last), multiples of kLanes.
struct Tiles {
  int64_t rows = 0;  // of the block
  int64_t keys = 0;  // of the chunk
  int64_t count = 0;
  int64_t first[kTiles];
  int64_t last[kTiles];

  int64_t rows_of(int64_t tile) const { return std::min(kTileRows, rows - tile * kTileRows); }
};

// c (M x 16 V) = [c +] factor * sum over depth of a (M words) x b (16 V words).
template <class Number, int M, int V, bool kAdd>
inline void product_tile(
    int64_t depth, const Word* a, int64_t a_row, int64_t a_depth, const Word* b, int64_t b_depth,
    float* c, int64_t c_row, float factor) {
  Vector sums[M][V];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      sums[m][v] = kAdd ? load(c + m * c_row + v * kLanes) : _mm512_setzero_ps();
    }
  }
  for (int64_t k = 0; k < depth; ++k) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) {
        sums[m][v] = Number::multiply_add(
            sums[m][v], a[m * a_row + k * a_depth], b + k * b_depth + v * kLanes);
      }
    }
  }
  const Vector factors = fill(factor);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) {
      store(c + m * c_row + v * kLanes, kAdd ? sums[m][v] : _mm512_mul_ps(sums[m][v], factors));
    }
  }
}

// A tile of 1, 4 or 8 rows: the fewest that hold `rows`; buffers have room for 8.
template <class Number, int V, bool kAdd>
inline void product(
    int64_t rows, int64_t depth, const Word* a, int64_t a_row, int64_t a_depth, const Word* b,
    int64_t b_depth, float* c, int64_t c_row, float factor = 1.0f) {
  if (rows > 4) {
    product_tile<Number, 8, V, kAdd>(depth, a, a_row, a_depth, b, b_depth, c, c_row, factor);
  } else if (rows > 1) {
    product_tile<Number, 4, V, kAdd>(depth, a, a_row, a_depth, b, b_depth, c, c_row, factor);
  } else {
    product_tile<Number, 1, V, kAdd>(depth, a, a_row, a_depth, b, b_depth, c, c_row, factor);
  }
}

// c += a x b for one tile of rows and all columns of a head.
template <class Number>
inline void product_columns(
    int64_t rows, int64_t depth, const Word* a, int64_t a_row, int64_t a_depth, const Word* b,
    float* c, int64_t columns) {
  int64_t column = 0;
  for (; column + 2 * kLanes <= columns; column += 2 * kLanes) {
    product<Number, 2, true>(
        rows, depth, a, a_row, a_depth, b + column, columns, c + column, columns);
  }
  if (column < columns) {
    product<Number, 1, true>(
        rows, depth, a, a_row, a_depth, b + column, columns, c + column, columns);
  }
}

// out[row][key] = factor * rows x transposed, where tiles see keys.
template <class Number>
void rows_by_keys(
    const Tiles& tiles, const Word* rows, HeadSize<Number> head, const Word* transposed,
    int64_t width, float* out, float factor) {
  // a panel of keys stays in cache while all tiles pass over it
  constexpr int64_t kPanel = 2 * kLanes;
  for (int64_t key = 0; key < tiles.keys; key += kPanel) {
    for (int64_t tile = 0; tile < tiles.count; ++tile) {
      const int64_t first = std::max(key, tiles.first[tile]);
      const int64_t last = std::min(key + kPanel, tiles.last[tile]);
      if (first >= last) continue;
      const Word* a = rows + tile * kTileRows * head.words;
      float* c = out + tile * kTileRows * kChunkKeys + first;
      if (last - first == kPanel) {
        product<Number, 2, false>(
            tiles.rows_of(tile), head.depth, a, head.words, 1, transposed + first, width, c,
            kChunkKeys, factor);
      } else {
        product<Number, 1, false>(
            tiles.rows_of(tile), head.depth, a, head.words, 1, transposed + first, width, c,
            kChunkKeys, factor);
      }
    }
  }
}

// sums[row] += weights (row x key) x stacked (key x head), where tiles see keys.
template <class Number>
void weigh_keys(
    const Tiles& tiles, const Word* weights, const Word* stacked, int64_t columns, float* sums) {
  constexpr int64_t kRow = kChunkKeys / Number::kPerWord;
  constexpr int64_t kPanel = 64;  // keys that stay in cache while all tiles pass over them
  for (int64_t key = 0; key < tiles.keys; key += kPanel) {
    for (int64_t tile = 0; tile < tiles.count; ++tile) {
      const int64_t first = std::max(key, tiles.first[tile]) / Number::kPerWord;
      const int64_t end = std::min({key + kPanel, tiles.last[tile], tiles.keys});
      const int64_t last = (end + Number::kPerWord - 1) / Number::kPerWord;
      if (first >= last) continue;
      product_columns<Number>(
          tiles.rows_of(tile), last - first, weights + tile * kTileRows * kRow + first, kRow, 1,
          stacked + first * columns, sums + tile * kTileRows * columns, columns);
    }
  }
}

// sums[key] += weights (row x key), turned, x stacked (row x head), where tiles see keys.
// Weights are [row / pair][key]: their words run along the rows.
template <class Number>
void weigh_rows(
    const Tiles& tiles, const Word* weights, const Word* stacked, int64_t columns, float* sums) {
  for (int64_t key = 0; key < tiles.keys; key += kTileRows) {
    // tiles that see a key follow each other: windows slide
    int64_t first = 0;
    while (first < tiles.count && !(tiles.first[first] <= key && key < tiles.last[first])) ++first;
    int64_t last = first;
    while (last < tiles.count && tiles.first[last] <= key && key < tiles.last[last]) ++last;
    if (first == last) continue;
    const int64_t begin = first * kTileRows / Number::kPerWord;
    const int64_t end =
        (std::min(last * kTileRows, tiles.rows) + Number::kPerWord - 1) / Number::kPerWord;
    product_columns<Number>(
        std::min(kTileRows, tiles.keys - key), end - begin, weights + begin * kChunkKeys + key, 1,
        kChunkKeys, stacked + begin * columns, sums + key * columns, columns);
  }
}

}  // namespace longspan
