// Forward: output and log-sum-exp of every row. Scores live in one chunk of one block at a time.

#include <ATen/ops/empty.h>

#include "arguments.h"
#include "operators.h"

namespace longspan {
namespace {

template <class Number>
struct Memory {
  // keys and values of a segment, and of its document's global tokens
  Buffer<Word> keys, values, far_keys, far_values;
  // of a block of queries
  Buffer<Word> queries, probabilities;
  Buffer<float> scores, sums;
  float largest[kBlockRows], total[kBlockRows];

  explicit Memory(const Arguments<Number>& a)
      : keys(a.all.most_keys * a.head.words),
        values(a.all.most_keys / Number::kPerWord * a.head.padded),
        far_keys(a.all.most_globals * a.head.words),
        far_values(a.all.most_globals / Number::kPerWord * a.head.padded),
        queries(kBlockRows * a.head.words),
        probabilities(kBlockRows * kChunkKeys / Number::kPerWord),
        scores(kBlockRows * kChunkKeys),
        sums(kBlockRows * a.head.padded) {}
};

template <class Number>
struct Forward {
  using Element = typename Number::Element;
  const Arguments<Number>& a;
  Heads<Element> out;
  float* lse;         // (H, T)
  float* global_lse;  // (H, G)
  float* part_out;    // (parts, H, padded): each segment's share of the global rows
  float* part_lse;    // (parts, H)
  int64_t num_globals;

  void run(int64_t task, Memory<Number>& memory) const {
    const Segment& segment = a.all.segments[task / a.num_kv_heads];
    const Document& document = a.all.documents[segment.document];
    const int64_t kv_head = task % a.num_kv_heads;
    if (document.has_local_rows) {
      pack_keys(a.k, a.v, document, kv_head, segment.first_key, segment.last_key, memory);
      if (document.has_far_keys) pack_far_keys(document, kv_head, memory);
      for (int64_t h = kv_head * a.group(); h < (kv_head + 1) * a.group(); ++h) {
        for (int64_t q = segment.first; q < segment.last; q += kBlockRows) {
          local_block(document, segment, h, q, memory);
        }
      }
    }
    if (document.has_global_rows) {
      const bool packed = document.has_local_rows && !a.separate;
      if (!packed) {
        pack_keys(
            a.separate ? a.global_k : a.k, a.separate ? a.global_v : a.v, document, kv_head,
            segment.first, segment.last, memory);
      }
      const int64_t first_key = packed ? segment.first_key : segment.first;
      const int64_t last_key = packed ? segment.last_key : segment.last;
      for (int64_t h = kv_head * a.group(); h < (kv_head + 1) * a.group(); ++h) {
        for (int64_t g = 0; g < document.num_globals(); g += kBlockRows) {
          global_block(document, segment, h, g, first_key, last_key, memory);
        }
      }
    }
  }

  void pack_keys(
      const Heads<const Element>& k, const Heads<const Element>& v, const Document& document,
      int64_t kv_head, int64_t first, int64_t last, Memory<Number>& memory) const {
    const int64_t count = last - first;
    const int64_t width = round_up(count, kLanes);
    const int64_t token = document.start + first;
    pack_transposed(k.rows(kv_head, token), count, width, a.head, memory.keys);
    pack_stacked(v.rows(kv_head, token), count, width, a.head, memory.values);
  }

  void pack_far_keys(const Document& document, int64_t kv_head, Memory<Number>& memory) const {
    const int64_t count = document.num_globals();
    const int64_t width = round_up(count, kLanes);
    const int64_t* index = document.globals.data();
    const auto k = a.k.rows(kv_head, document.start, index);
    pack_transposed(k, count, width, a.head, memory.far_keys);
    const auto v = a.v.rows(kv_head, document.start, index);
    pack_stacked(v, count, width, a.head, memory.far_values);
  }

  void local_block(
      const Document& document, const Segment& segment, int64_t h, int64_t query,
      Memory<Number>& memory) const {
    const int64_t rows = std::min(kBlockRows, segment.last - query);
    start_block(a.q.rows(h, document.start + query), rows, memory);
    Mask mask;
    const int64_t first = std::max<int64_t>(0, query - document.window) / kLanes * kLanes;
    const int64_t last = std::min(document.length, query + rows + document.ahead);
    for (int64_t key = first; key < last; key += kChunkKeys) {
      mask_window(mask, document, query, rows, key, std::min(kChunkKeys, last - key));
      const int64_t offset = key - segment.first_key;
      see(mask, memory.keys, memory.values, offset, segment.num_keys(), memory);
    }
    for (int64_t g = 0; document.has_far_keys && g < document.num_globals(); g += kChunkKeys) {
      const int64_t keys = std::min(kChunkKeys, document.num_globals() - g);
      mask_far(mask, document, query, rows, document.globals.data() + g, keys);
      const int64_t width = round_up(document.num_globals(), kLanes);
      if (!mask.empty()) see(mask, memory.far_keys, memory.far_values, g, width, memory);
    }
    const auto target = out.rows(h, document.start + query);
    float* target_lse = lse + h * a.num_tokens + document.start + query;
    for (int64_t r = 0; r < rows; ++r) {
      write_row(memory.sums + r * a.head.padded, 1 / memory.total[r], a.head.size, target[r]);
      target_lse[r] = memory.largest[r] + std::log(memory.total[r]);
    }
  }

  // Global rows from `g` on over the keys that the segment owns.
  void global_block(
      const Document& document, const Segment& segment, int64_t h, int64_t g, int64_t first_key,
      int64_t last_key, Memory<Number>& memory) const {
    const int64_t rows = std::min(kBlockRows, document.num_globals() - g);
    start_block(a.global_queries(h, document, g), rows, memory);
    Mask mask;
    for (int64_t key = segment.first; key < segment.last; key += kChunkKeys) {
      start_mask(mask, rows, std::min(kChunkKeys, segment.last - key));
      const int64_t width = round_up(last_key - first_key, kLanes);
      see(mask, memory.keys, memory.values, key - first_key, width, memory);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t part = (document.part(segment.number) + g + r) * a.num_heads + h;
      write_row(
          memory.sums + r * a.head.padded, 1 / memory.total[r], a.head.padded,
          part_out + part * a.head.padded);
      part_lse[part] = memory.largest[r] + std::log(memory.total[r]);
    }
  }

  void start_block(Rows<const Element> queries, int64_t rows, Memory<Number>& memory) const {
    pack_rows(queries, rows, round_up(rows, kTileRows), a.head, memory.queries);
    std::fill_n(memory.largest, kBlockRows, -kInfinity);
    std::fill_n(memory.total, kBlockRows, 0.0f);
    std::fill_n(static_cast<float*>(memory.sums), kBlockRows * a.head.padded, 0.0f);
  }

  // One chunk of keys, from `offset` on of `width` packed ones, into the sums of the block.
  void see(
      const Mask& mask, const Word* keys, const Word* values, int64_t offset, int64_t width,
      Memory<Number>& memory) const {
    rows_by_keys(mask.tiles, memory.queries, a.head, keys + offset, width, memory.scores, a.scale);
    for (int64_t r = 0; r < mask.tiles.rows; ++r) {
      const float factor = softmax_row<Number>(
          mask, r, memory.scores + r * kChunkKeys,
          memory.probabilities + r * kChunkKeys / Number::kPerWord, memory.largest[r],
          memory.total[r]);
      if (factor == 1.0f) continue;
      float* sums = memory.sums + r * a.head.padded;
      for (int64_t e = 0; e < a.head.padded; ++e) sums[e] *= factor;
    }
    weigh_keys<Number>(
        mask.tiles, memory.probabilities, values + offset / Number::kPerWord * a.head.padded,
        a.head.padded, memory.sums);
  }

  // Put the segments' shares of a document's global rows together, for one head.
  void combine(const Document& document, int64_t h) const {
    Buffer<float> row(a.head.padded);
    const auto target = out.rows(h, document.start, document.globals.data());
    for (int64_t g = 0; g < document.num_globals(); ++g) {
      const auto part = [&](int64_t s) { return (document.part(s) + g) * a.num_heads + h; };
      float largest_lse = -kInfinity;
      for (int64_t s = 0; s < document.num_segments; ++s) {
        largest_lse = std::max(largest_lse, part_lse[part(s)]);
      }
      std::fill_n(static_cast<float*>(row), a.head.padded, 0.0f);
      float total = 0;
      for (int64_t s = 0; s < document.num_segments; ++s) {
        const float weight = std::exp(part_lse[part(s)] - largest_lse);
        const float* share = part_out + part(s) * a.head.padded;
        for (int64_t e = 0; e < a.head.padded; ++e) row[e] += weight * share[e];
        total += weight;
      }
      write_row(row, 1 / total, a.head.size, target[g]);
      global_lse[h * num_globals + document.first_global + g] = largest_lse + std::log(total);
      // the token's local row is nobody's: in the backward its probabilities vanish
      lse[h * a.num_tokens + document.start + document.globals[g]] = kInfinity;
    }
  }
};

}  // namespace

template <class Number>
Outputs forward(const Arguments<Number>& a, const at::Tensor& q, int64_t num_globals) {
  const auto floats = q.options().dtype(at::kFloat);
  Outputs outputs{
      at::empty(q.sizes(), q.options()), at::empty({a.num_heads, a.num_tokens}, floats),
      at::empty({a.num_heads, num_globals}, floats)};
  const at::Tensor part_out = at::empty({a.all.num_parts, a.num_heads, a.head.padded}, floats);
  const at::Tensor part_lse = at::empty({a.all.num_parts, a.num_heads}, floats);
  const Forward<Number> forward{
      a,
      Heads<typename Number::Element>(outputs.out),
      outputs.lse.mutable_data_ptr<float>(),
      outputs.global_lse.mutable_data_ptr<float>(),
      part_out.mutable_data_ptr<float>(),
      part_lse.mutable_data_ptr<float>(),
      num_globals};
  run_tasks(
      a.num_tasks(), a.work(), [&] { return Memory<Number>(a); },
      [&](int64_t task, Memory<Number>& memory) { forward.run(task, memory); });
  const int64_t num_documents = static_cast<int64_t>(a.all.documents.size());
  run_tasks(
      num_documents * a.num_heads, a.all.num_parts * a.num_heads * a.head.padded, [] { return 0; },
      [&](int64_t task, int) {
        const Document& document = a.all.documents[task / a.num_heads];
        if (document.has_global_rows) forward.combine(document, task % a.num_heads);
      });
  return outputs;
}

template Outputs forward(const Arguments<Float32>&, const at::Tensor&, int64_t);
template Outputs forward(const Arguments<BFloat16>&, const at::Tensor&, int64_t);

}  // namespace longspan
