// Gradients of keys and values, of which several segments may find a share.
#pragma once

#include "arguments.h"

namespace longspan {

// Where a segment alone reaches a key, its sums are the gradients. Where windows of two segments
// overlap, or a global token is seen from afar, the shares wait here until all segments are done.
template <class Number>
struct KeyGradients {
  using Element = typename Number::Element;
  const Arguments<Number>& a;
  Heads<Element> dk, dv;
  float* waiting;   // of each segment, (K, 2, keys, padded): gradients of keys, then of values
  float* far_part;  // (parts, K, 2, padded): each segment's share of its document's global tokens

  int64_t columns() const { return a.head.padded; }

  float* waiting_of(const Segment& segment, int64_t kv_head) const {
    const int64_t before = segment.first_sum * a.num_kv_heads + kv_head * segment.num_keys();
    return waiting + before * 2 * columns();
  }

  float* far_share(const Document& document, int64_t segment, int64_t g, int64_t kv_head) const {
    return far_part + ((document.part(segment) + g) * a.num_kv_heads + kv_head) * 2 * columns();
  }

  // Keys that no other segment reaches are done; the others' sums wait for `combine`.
  void write(
      const Document& document, const Segment& segment, int64_t kv_head, const float* own) const {
    const auto dk_rows = dk.rows(kv_head, document.start);
    const auto dv_rows = dv.rows(kv_head, document.start);
    const int64_t to_values = segment.num_keys() * columns();
    float* later = waiting_of(segment, kv_head);
    auto global = document.globals.begin();
    // what was packed before, up to a multiple, is not the segment's
    const int64_t first = std::max<int64_t>(0, segment.first - document.reach());
    for (int64_t j = first; j < segment.last_key; ++j) {
      const int64_t at = (j - segment.first_key) * columns();
      if (is_shared(document, j, global)) {
        std::copy_n(own + at, columns(), later + at);
        std::copy_n(own + to_values + at, columns(), later + to_values + at);
      } else {
        write_row(own + at, 1.0f, a.head.size, dk_rows[j]);
        write_row(own + to_values + at, 1.0f, a.head.size, dv_rows[j]);
      }
    }
  }

  // Whether several segments add to key j; `global` walks along the document's global tokens.
  bool is_shared(
      const Document& document, int64_t j, std::vector<int64_t>::const_iterator& global) const {
    while (global != document.globals.end() && *global < j) ++global;
    const bool is_global = global != document.globals.end() && *global == j;
    return (is_global && document.has_far_keys) ||
           document.first_reaching(j) < document.last_reaching(j);
  }

  // Add up what several segments found for a stretch of a document's keys, for one head.
  void combine(
      const Document& document, const Segment* segments, int64_t kv_head, int64_t first,
      int64_t last, float* row) const {
    const auto dk_rows = dk.rows(kv_head, document.start);
    const auto dv_rows = dv.rows(kv_head, document.start);
    auto global = document.globals.begin();
    for (int64_t j = first; j < last; ++j) {
      if (!is_shared(document, j, global)) continue;
      std::fill_n(row, 2 * columns(), 0.0f);
      for (int64_t s = document.first_reaching(j); s <= document.last_reaching(j); ++s) {
        const float* key_sums =
            waiting_of(segments[s], kv_head) + (j - segments[s].first_key) * columns();
        const float* value_sums = key_sums + segments[s].num_keys() * columns();
        for (int64_t e = 0; e < columns(); ++e) row[e] += key_sums[e];
        for (int64_t e = 0; e < columns(); ++e) row[columns() + e] += value_sums[e];
      }
      if (document.has_far_keys && global != document.globals.end() && *global == j) {
        for (int64_t s = 0; s < document.num_segments; ++s) {
          const float* share = far_share(document, s, global - document.globals.begin(), kv_head);
          for (int64_t e = 0; e < 2 * columns(); ++e) row[e] += share[e];
        }
      }
      write_row(row, 1.0f, a.head.size, dk_rows[j]);
      write_row(row + columns(), 1.0f, a.head.size, dv_rows[j]);
    }
  }
};

}  // namespace longspan
