// How a packed batch is cut into tasks that need nothing of each other.
//
// A task is a segment of one document's queries, for one key/value head. It reads the keys that
// its windows reach and adds up its own sums for them; a last pass over the batch adds the few
// sums that segments share. So every product is computed once, no two threads write to one
// place, and results do not depend on the number of threads.
//
// Global queries see all keys of their document: each segment serves them for the keys it owns
// (those of its queries), and the same last pass combines these parts.
#pragma once

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <optional>
#include <vector>

#include "products.h"

namespace longspan {

constexpr int64_t kLeastSegment = 512;  // queries; below, copies of keys are made for too few
constexpr int64_t kLeastTasks = 8;      // full attention is cut where there are fewer

// Positions of tokens and keys are relative to the document's first token.
struct Document {
  int64_t start, length;
  int64_t window;                // to the left, at most the length
  int64_t ahead;                 // to the right: the window, or nothing where it is causal
  std::vector<int64_t> globals;  // ascending
  int64_t first_global;          // place of its first global token among those of the batch
  bool has_local_rows;           // some token is not global
  bool has_far_keys;             // a global token may lie outside a window
  bool has_global_rows;          // are computed apart from local rows
  int64_t num_segments, segment_length;
  int64_t first_part;  // row of the parts of its first segment's first global token

  int64_t reach() const { return has_local_rows ? window : 0; }
  int64_t reach_ahead() const { return has_local_rows ? ahead : 0; }
  // The segments whose windows reach a key.
  int64_t first_reaching(int64_t key) const {
    return std::max<int64_t>(0, key - reach_ahead()) / segment_length;
  }
  int64_t last_reaching(int64_t key) const {
    return std::min(num_segments - 1, (key + reach()) / segment_length);
  }

  int64_t num_globals() const { return static_cast<int64_t>(globals.size()); }
  int64_t part(int64_t segment) const { return first_part + segment * num_globals(); }
};

struct Segment {
  int64_t document, number;     // of the document, within the document
  int64_t first, last;          // queries, and keys that it owns
  int64_t first_key, last_key;  // keys that its windows reach; the first a multiple of kLanes
  int64_t first_sum;            // row of its first key among all segments' sums
  int64_t num_keys() const { return round_up(last_key - first_key, kLanes); }
};

struct Segments {
  std::vector<Document> documents;
  std::vector<Segment> segments;
  int64_t num_parts = 0;  // pairs of a global token and a segment of its document
  int64_t num_sums = 0;   // keys of all segments
  int64_t most_keys = 0, most_own_keys = 0, most_globals = 0;  // of one segment
};

inline int64_t count_segments(const Document& document, int64_t tasks) {
  const int64_t length = document.length;
  if (document.window >= length) {
    const int64_t wanted = (kLeastTasks + tasks - 1) / tasks;
    return std::clamp<int64_t>(length / kLeastSegment, 1, wanted);
  }
  // no shorter than its windows reach, so that few keys are read twice, and no shorter than its
  // global tokens are many, so that their parts take no more memory than the queries do
  const int64_t least = std::max({kLeastSegment, 4 * document.window, document.num_globals()});
  return std::max<int64_t>(1, length / least);
}

inline Segments cut(
    const int32_t* bounds, int64_t num_documents, const int64_t* globals, int64_t num_globals,
    std::optional<int64_t> window, bool causal, int64_t num_kv_heads, bool separate_projections) {
  Segments all;
  int64_t place = 0;
  for (int64_t d = 0; d < num_documents; ++d) {
    Document document{};
    document.start = bounds[d];
    document.length = bounds[d + 1] - bounds[d];
    document.first_global = place;
    for (; place < num_globals && globals[place] < bounds[d + 1]; ++place) {
      document.globals.push_back(globals[place] - document.start);
    }
    const bool full = !window || *window >= document.length - 1;
    document.window = full ? document.length : *window;
    document.ahead = causal ? 0 : document.window;
    const bool any = document.num_globals() > 0;
    // where all see all, a global row is a local row, unless it has projections of its own
    document.has_global_rows = any && (separate_projections || !full);
    document.has_local_rows =
        !(document.has_global_rows && document.num_globals() == document.length);
    document.has_far_keys = any && !full && document.has_local_rows;
    document.num_segments = count_segments(document, num_documents * num_kv_heads);
    document.segment_length =
        round_up((document.length + document.num_segments - 1) / document.num_segments, kBlockRows);
    document.num_segments =
        (document.length + document.segment_length - 1) / document.segment_length;
    document.first_part = all.num_parts;
    all.num_parts += document.num_segments * document.num_globals();
    for (int64_t s = 0; s < document.num_segments; ++s) {
      Segment segment{};
      segment.document = d;
      segment.number = s;
      segment.first = s * document.segment_length;
      segment.last = std::min(document.length, segment.first + document.segment_length);
      segment.first_key = std::max<int64_t>(0, segment.first - document.reach()) / kLanes * kLanes;
      segment.last_key = std::min(document.length, segment.last + document.reach_ahead());
      segment.first_sum = all.num_sums;
      all.num_sums += segment.num_keys();
      all.most_keys = std::max(all.most_keys, segment.num_keys());
      all.most_own_keys =
          std::max(all.most_own_keys, round_up(segment.last - segment.first, kLanes));
      all.segments.push_back(segment);
    }
    all.most_globals = std::max(all.most_globals, round_up(document.num_globals(), kLanes));
    all.documents.push_back(std::move(document));
  }
  return all;
}

// Call run(task, thread's own memory) for all tasks, in turns: documents differ in length, so
// whoever is done takes the next. `work` in multiplications decides whether threads pay.
template <class Memory, class Run>
void run_tasks(int64_t tasks, double work, const Memory& memory, const Run& run) {
  constexpr double kWorkOfWakingThreads = 1e6;
  const int64_t threads =
      work < kWorkOfWakingThreads ? 1 : std::min<int64_t>(at::get_num_threads(), tasks);
  std::atomic<int64_t> next{0};
  const auto work_off = [&](int64_t, int64_t) {
    auto own = memory();
    for (int64_t task = next++; task < tasks; task = next++) run(task, own);
  };
  if (threads <= 1) {
    work_off(0, 1);
  } else {
    at::parallel_for(0, threads, 1, work_off);
  }
}

}  // namespace longspan
