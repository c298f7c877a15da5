// Backward: gradients of queries, keys and values, from scores that are computed anew.

#include <ATen/ops/empty.h>
#include <ATen/ops/narrow.h>
#include <ATen/ops/zeros.h>

#include "backward_block.h"
#include "key_gradients.h"
#include "operators.h"

namespace longspan {
namespace {

template <class Number>
struct Memory {
  PackedKeys<Number> near, far;
  Buffer<float> sums;           // of keys, then of values of the segment
  Buffer<float> far_sums;       // likewise of the document's global tokens
  Buffer<float> separate_sums;  // likewise of the segment's own keys of global projections
  BackwardBlock<Number> block;

  explicit Memory(const Arguments<Number>& a)
      : near(a.all.most_keys, a.head),
        far(a.all.most_globals, a.head),
        sums(2 * a.all.most_keys * a.head.padded),
        far_sums(2 * a.all.most_globals * a.head.padded),
        separate_sums(a.separate ? 2 * a.all.most_own_keys * a.head.padded : 0),
        block(a.head, a.scale) {}
};

template <class Number>
struct Backward {
  using Element = typename Number::Element;
  const Arguments<Number>& a;
  Heads<const Element> out_gradient, out;
  const float* lse;         // (H, T)
  const float* global_lse;  // (H, G)
  int64_t num_globals;
  KeyGradients<Number> keys;
  Heads<Element> dq, dglobal_q, dglobal_k, dglobal_v;
  float* dq_part;  // (parts, H, padded): each segment's share of global queries' gradients

  int64_t columns() const { return a.head.padded; }

  void run(int64_t task, Memory<Number>& memory) const {
    const Segment& segment = a.all.segments[task / a.num_kv_heads];
    const Document& document = a.all.documents[segment.document];
    const int64_t kv_head = task % a.num_kv_heads;
    std::fill_n(static_cast<float*>(memory.sums), 2 * segment.num_keys() * columns(), 0.0f);
    if (document.has_local_rows) local_rows(document, segment, kv_head, memory);
    if (document.has_global_rows) global_rows(document, segment, kv_head, memory);
    keys.write(document, segment, kv_head, memory.sums);
  }

  void local_rows(
      const Document& document, const Segment& segment, int64_t kv_head,
      Memory<Number>& memory) const {
    const Keys near = pack(
        a.k, a.v, document, kv_head, segment.first_key, segment.last_key - segment.first_key,
        nullptr, memory.near, memory.sums);
    Keys far{};
    if (document.has_far_keys) {
      far = pack(
          a.k, a.v, document, kv_head, 0, document.num_globals(), document.globals.data(),
          memory.far, memory.far_sums);
      std::fill_n(far.key_sums, 2 * far.width * columns(), 0.0f);
    }
    for (int64_t h = kv_head * a.group(); h < (kv_head + 1) * a.group(); ++h) {
      for (int64_t q = segment.first; q < segment.last; q += kBlockRows) {
        local_block(document, segment, h, q, near, far, memory);
      }
    }
    for (int64_t g = 0; document.has_far_keys && g < document.num_globals(); ++g) {
      float* share = keys.far_share(document, segment.number, g, kv_head);
      std::copy_n(far.key_sums + g * columns(), columns(), share);
      std::copy_n(far.value_sums + g * columns(), columns(), share + columns());
    }
  }

  Keys pack(
      const Heads<const Element>& k, const Heads<const Element>& v, const Document& document,
      int64_t kv_head, int64_t first, int64_t count, const int64_t* index,
      PackedKeys<Number>& packed, float* key_sums) const {
    const int64_t width = round_up(count, kLanes);
    const auto keys = k.rows(kv_head, document.start + first, index);
    const auto values = v.rows(kv_head, document.start + first, index);
    pack_transposed(keys, count, width, a.head, packed.transposed_keys);
    pack_transposed(values, count, width, a.head, packed.transposed_values);
    pack_stacked(keys, count, width, a.head, packed.stacked_keys);
    return {
        packed.transposed_keys,      packed.transposed_values, packed.stacked_keys, width, key_sums,
        key_sums + width * columns()};
  }

  void local_block(
      const Document& document, const Segment& segment, int64_t h, int64_t query, const Keys& near,
      const Keys& far, Memory<Number>& memory) const {
    const int64_t rows = std::min(kBlockRows, segment.last - query);
    const int64_t token = document.start + query;
    memory.block.start(
        a.q.rows(h, token), out_gradient.rows(h, token), out.rows(h, token),
        lse + h * a.num_tokens + token, rows);
    Mask mask;
    const int64_t first = std::max<int64_t>(0, query - document.window) / kLanes * kLanes;
    const int64_t last = std::min(document.length, query + rows + document.ahead);
    for (int64_t key = first; key < last; key += kChunkKeys) {
      mask_window(mask, document, query, rows, key, std::min(kChunkKeys, last - key));
      memory.block.see(mask, near, key - segment.first_key);
    }
    for (int64_t g = 0; document.has_far_keys && g < document.num_globals(); g += kChunkKeys) {
      const int64_t keys = std::min(kChunkKeys, document.num_globals() - g);
      mask_far(mask, document, query, rows, document.globals.data() + g, keys);
      if (!mask.empty()) memory.block.see(mask, far, g);
    }
    const auto target = dq.rows(h, token);
    for (int64_t r = 0; r < rows; ++r) {
      write_row(memory.block.query_sum(r), 1.0f, a.head.size, target[r]);
    }
  }

  // The document's global queries over the keys that the segment owns.
  void global_rows(
      const Document& document, const Segment& segment, int64_t kv_head,
      Memory<Number>& memory) const {
    const int64_t count = segment.last - segment.first;
    Keys own{};
    int64_t offset = 0;
    if (a.separate) {
      own = pack(
          a.global_k, a.global_v, document, kv_head, segment.first, count, nullptr, memory.near,
          memory.separate_sums);
      std::fill_n(own.key_sums, 2 * own.width * columns(), 0.0f);
    } else if (document.has_local_rows) {  // are packed already
      own = {
          memory.near.transposed_keys,
          memory.near.transposed_values,
          memory.near.stacked_keys,
          segment.num_keys(),
          memory.sums,
          memory.sums + segment.num_keys() * columns()};
      offset = segment.first - segment.first_key;
    } else {
      own = pack(
          a.k, a.v, document, kv_head, segment.first, count, nullptr, memory.near, memory.sums);
    }
    for (int64_t h = kv_head * a.group(); h < (kv_head + 1) * a.group(); ++h) {
      for (int64_t g = 0; g < document.num_globals(); g += kBlockRows) {
        global_block(document, segment, h, g, own, offset, memory);
      }
    }
    if (!a.separate) return;
    const auto dk_rows = dglobal_k.rows(kv_head, document.start + segment.first);
    const auto dv_rows = dglobal_v.rows(kv_head, document.start + segment.first);
    for (int64_t j = 0; j < count; ++j) {
      write_row(own.key_sums + j * columns(), 1.0f, a.head.size, dk_rows[j]);
      write_row(own.value_sums + j * columns(), 1.0f, a.head.size, dv_rows[j]);
    }
  }

  void global_block(
      const Document& document, const Segment& segment, int64_t h, int64_t g, const Keys& own,
      int64_t offset, Memory<Number>& memory) const {
    const int64_t rows = std::min(kBlockRows, document.num_globals() - g);
    const int64_t* index = document.globals.data() + g;
    memory.block.start(
        a.global_queries(h, document, g), out_gradient.rows(h, document.start, index),
        out.rows(h, document.start, index),
        global_lse + h * num_globals + document.first_global + g, rows);
    Mask mask;
    for (int64_t key = segment.first; key < segment.last; key += kChunkKeys) {
      start_mask(mask, rows, std::min(kChunkKeys, segment.last - key));
      memory.block.see(mask, own, key - segment.first + offset);
    }
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t part = (document.part(segment.number) + g + r) * a.num_heads + h;
      std::copy_n(memory.block.query_sum(r), columns(), dq_part + part * columns());
    }
  }

  // Add up what the segments found for a document's global queries, for one head.
  void combine_global_queries(const Document& document, int64_t h, float* row) const {
    const auto target = a.separate ? dglobal_q.rows(h, document.first_global)
                                   : dq.rows(h, document.start, document.globals.data());
    const auto unused = dq.rows(h, document.start, document.globals.data());
    for (int64_t g = 0; g < document.num_globals(); ++g) {
      std::fill_n(row, columns(), 0.0f);
      for (int64_t s = 0; s < document.num_segments; ++s) {
        const float* share = dq_part + ((document.part(s) + g) * a.num_heads + h) * columns();
        for (int64_t e = 0; e < columns(); ++e) row[e] += share[e];
      }
      if (a.separate) std::fill_n(unused[g], a.head.size, Element(0));
      write_row(row, 1.0f, a.head.size, target[g]);
    }
  }

  void combine(const Segment* segment, int64_t kv_head, float* row) const {
    const Document& document = a.all.documents[segment->document];
    const Segment* segments = segment - segment->number;
    keys.combine(document, segments, kv_head, segment->first, segment->last, row);
    if (!document.has_global_rows || segment->number > 0) return;
    for (int64_t h = kv_head * a.group(); h < (kv_head + 1) * a.group(); ++h) {
      combine_global_queries(document, h, row);
    }
  }
};

}  // namespace

template <class Number>
Gradients backward(const Arguments<Number>& a, const Saved& saved, int64_t num_globals) {
  using Element = typename Number::Element;
  const auto options = saved.out.options();
  const auto floats = options.dtype(at::kFloat);
  const int64_t size = a.head.size, columns = a.head.padded;
  const int64_t heads = a.num_heads + 2 * a.num_kv_heads;
  Gradients gradients{at::empty({a.num_tokens, heads, size}, options), {}, {}, {}};
  const auto of_heads = [&](int64_t first, int64_t count) {
    return Heads<Element>(at::narrow(gradients.qkv, 1, first, count));
  };
  // documents without global tokens leave zeros
  const int64_t separate_tokens = a.separate ? a.num_tokens : 0;
  gradients.global_q = at::empty({a.separate ? num_globals : 0, a.num_heads, size}, options);
  gradients.global_k = at::zeros({separate_tokens, a.num_kv_heads, size}, options);
  gradients.global_v = at::zeros({separate_tokens, a.num_kv_heads, size}, options);
  const at::Tensor sums = at::empty({a.all.num_sums, a.num_kv_heads, 2, columns}, floats);
  const at::Tensor far_part = at::empty({a.all.num_parts, a.num_kv_heads, 2, columns}, floats);
  const at::Tensor dq_part = at::empty({a.all.num_parts, a.num_heads, columns}, floats);
  const Backward<Number> backward{
      a,
      Heads<const Element>(saved.out_gradient),
      Heads<const Element>(saved.out),
      saved.lse.const_data_ptr<float>(),
      saved.global_lse.const_data_ptr<float>(),
      num_globals,
      KeyGradients<Number>{
          a, of_heads(a.num_heads, a.num_kv_heads),
          of_heads(a.num_heads + a.num_kv_heads, a.num_kv_heads),
          sums.mutable_data_ptr<float>(), far_part.mutable_data_ptr<float>()},
      of_heads(0, a.num_heads),
      Heads<Element>(gradients.global_q),
      Heads<Element>(gradients.global_k),
      Heads<Element>(gradients.global_v),
      dq_part.mutable_data_ptr<float>()};
  run_tasks(
      a.num_tasks(), 2.5 * a.work(), [&] { return Memory<Number>(a); },
      [&](int64_t task, Memory<Number>& memory) { backward.run(task, memory); });
  run_tasks(
      a.num_tasks(), 4.0 * a.num_tokens * a.num_kv_heads * columns,
      [&] { return Buffer<float>(2 * columns); },
      [&](int64_t task, Buffer<float>& row) {
        const Segment* segment = &a.all.segments[task / a.num_kv_heads];
        backward.combine(segment, task % a.num_kv_heads, row);
      });
  return gradients;
}

template Gradients backward(const Arguments<Float32>&, const Saved&, int64_t);
template Gradients backward(const Arguments<BFloat16>&, const Saved&, int64_t);

}  // namespace longspan
