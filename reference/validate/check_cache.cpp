// CheckTap: key-value rows, compressed entries and index keys.
#include "reference/validate/check_tap.hpp"

#include <dsv4/attention/visibility.hpp>

#include <algorithm>

namespace dsv4::reference::validation {

namespace {

// Appends a pair for each row of `computed` from row `from` on that `usable` holds; recorded rows begin at
// `first` of the tensor.
template <class T>
void pair_rows(std::vector<RowPair<T>>& pairs, const T* computed, const std::vector<T>& recorded,
               std::int64_t count, std::int64_t first, const std::vector<std::uint8_t>* usable_or_null,
               std::int64_t usable_from, std::int64_t columns) {
  for (std::int64_t i = 0; i < count; ++i)
    if (usable_or_null == nullptr || (*usable_or_null)[static_cast<std::size_t>(usable_from + i)])
      pairs.push_back({computed + i * columns, recorded.data() + (first + i) * columns, first + i});
}

}  // namespace

// Rows [begin, end) of a store, decoded.
template <class T>
std::vector<T> CheckTap<T>::stored_rows(const RowStore& store, std::int64_t begin, std::int64_t end) const {
  const int channels = store.channels();
  std::vector<T> out(static_cast<std::size_t>(std::max<std::int64_t>(0, end - begin) * channels));
  std::vector<float> buffer(static_cast<std::size_t>(channels));
  for (std::int64_t i = begin; i < end; ++i) {
    store.read(i, buffer.data());
    const float* row = store.view(i, buffer.data());
    for (int c = 0; c < channels; ++c)
      out[static_cast<std::size_t>((i - begin) * channels + c)] = from_float<T>(row[c]);
  }
  return out;
}

// Position that ring slot `slot` of 128 holds once position `last` is in; negative: none yet.
template <class T>
std::int64_t CheckTap<T>::position_of_slot(std::int64_t slot, std::int64_t last) const {
  return last - (last - slot + kWindow) % kWindow;
}

template <class T>
std::int64_t CheckTap<T>::entries_of(int block) const {
  const int ratio = ratio_of(recording_.config.kind(block));
  return ratio == 0 ? 0 : call().end() / ratio;
}

// Staged: remembers what this call computed, before anything takes its place, and from what.
template <class T>
void CheckTap<T>::note_new_rows(int block, const SequenceState& state, const Tensor<T>& kv) {
  History& h = history_[static_cast<std::size_t>(block)];
  const auto end = static_cast<std::size_t>(call().end());
  const LayerKind kind = recording_.config.kind(block);
  h.normed.resize(end);
  h.window.resize(end);
  h.window_rows.resize(kWindow * kHeadDim);
  for (std::int64_t t = 0; t < call().count(); ++t) {
    const std::int64_t position = call().start + t;
    h.normed[static_cast<std::size_t>(position)] = masks_[kNormed][static_cast<std::size_t>(t)];
    h.window[static_cast<std::size_t>(position)] = 0;
    std::copy_n(kv.row(t), kHeadDim, h.window_rows.data() + position % kWindow * kHeadDim);
  }
  if (kind == LayerKind::kSwa) return;

  const attention::CompressorShape shape{ratio_of(kind), kHeadDim};
  const std::int64_t first = call().start / shape.ratio, entries = entries_of(block);
  const auto note = [&](const RowStore& store, std::vector<T>& rows, Mask& followed) {
    const std::vector<T> added = stored_rows(store, first, entries);
    rows.resize(static_cast<std::size_t>(first * store.channels()));
    rows.insert(rows.end(), added.begin(), added.end());
    followed.resize(static_cast<std::size_t>(first));
    followed.resize(static_cast<std::size_t>(entries), 0);
  };
  note(state.block(block).main.entries, h.entry_rows, h.entry);
  if (kind == LayerKind::kCsa) note(state.block(block).index.entries, h.key_rows, h.key);
  h.sourced.resize(static_cast<std::size_t>(first));
  for (std::int64_t e = first; e < entries; ++e) {
    const std::int64_t last = (e + 1) * shape.ratio;
    const auto begin = h.normed.begin() + std::max<std::int64_t>(0, last - shape.span());
    h.sourced.push_back(std::all_of(begin, h.normed.begin() + last, [](std::uint8_t r) { return r != 0; }));
  }
}

template <class T>
void CheckTap<T>::compare_cache(int block, const SequenceState& state, const Tensor<T>& kv) {
  const BlockState& stored = state.block(block);
  const LayerKind kind = recording_.config.kind(block);
  const std::int64_t count = call().count(), entries = entries_of(block);
  const History& h = history_[static_cast<std::size_t>(block)];
  const Mask* const normed = staged() ? &masks_[kNormed] : nullptr;
  const Mask* const sourced = staged() ? &h.sourced : nullptr;
  const std::string no_source = "input not recorded: attn.in of the tokens they come from";
  // Entries and keys of a free run are in the state as computed.
  const auto computed = [&](const RowStore& store, const std::vector<T>& noted) {
    return staged() ? noted : stored_rows(store, 0, entries);
  };

  if (const int order = this->order(block, "attn.kv"); const StoredTensor* tensor = recorded(order)) {
    const std::vector<T> rec = values<T>(*tensor);
    const std::vector<T> all = computed(stored.main.entries, h.entry_rows);
    std::vector<RowPair<T>> pairs;
    pair_rows(pairs, kv.data(), rec, count, 0, normed, 0, kHeadDim);
    pair_rows(pairs, all.data(), rec, entries, count, sourced, 0, kHeadDim);
    finish(order, compare_rows<T>(pairs, kHeadDim), no_source);
  }
  if (const int order = this->order(block, "attn.kv_new"); const StoredTensor* tensor = recorded(order)) {
    const std::vector<T> rec = values<T>(*tensor);
    std::vector<RowPair<T>> pairs;
    pair_rows(pairs, kv.data(), rec, count, 0, normed, 0, kHeadDim);
    finish(order, compare_rows<T>(pairs, kHeadDim), no_source);
  }
  if (kind != LayerKind::kSwa) {
    const int order = this->order(block, "attn.entry_new");
    if (const StoredTensor* tensor = recorded(order)) {
      const std::vector<T> rec = values<T>(*tensor);
      const std::vector<T> all = computed(stored.main.entries, h.entry_rows);
      const std::int64_t first = call().start / ratio_of(kind);
      std::vector<RowPair<T>> pairs;
      pair_rows(pairs, all.data() + first * kHeadDim, rec, entries - first, 0, sourced, first, kHeadDim);
      finish(order, compare_rows<T>(pairs, kHeadDim), no_source);
    }
  }
  if (kind == LayerKind::kCsa) {
    const int order = this->order(block, "attn.indexer.keys");
    if (const StoredTensor* tensor = recorded(order)) {
      const std::vector<T> rec = values<T>(*tensor);
      const std::vector<T> all = computed(stored.index.entries, h.key_rows);
      std::vector<RowPair<T>> pairs;
      pair_rows(pairs, all.data(), rec, entries, 0, sourced, 0, kIndexDim);
      finish(order, compare_rows<T>(pairs, kIndexDim), no_source);
    }
  }
  if (const int order = this->order(block, "attn.cache"); const StoredTensor* tensor = recorded(order)) {
    const std::vector<T> rec = values<T>(*tensor);
    const std::vector<T> all = computed(stored.main.entries, h.entry_rows);
    std::vector<T> older;  // of a free run: rows that lie in the state's ring
    older.reserve(kWindow * kHeadDim);
    std::vector<RowPair<T>> pairs;
    for (std::int64_t s = 0; s < kWindow; ++s) {
      const std::int64_t p = position_of_slot(s, call().end() - 1);
      if (p < 0 || (staged() && !h.normed[static_cast<std::size_t>(p)])) continue;
      const T* row = kv.row(std::max<std::int64_t>(0, p - call().start));
      if (staged()) {
        row = h.window_rows.data() + p % kWindow * kHeadDim;
      } else if (p < call().start) {
        const std::vector<T> one = stored_rows(stored.window, p % stored.ring, p % stored.ring + 1);
        row = older.data() + older.size();
        older.insert(older.end(), one.begin(), one.end());
      }
      pairs.push_back({row, rec.data() + s * kHeadDim, s});
    }
    pair_rows(pairs, all.data(), rec, entries, kWindow, sourced, 0, kHeadDim);
    finish(order, compare_rows<T>(pairs, kHeadDim), no_source);
  }
}

// A prefill as `kv`, later calls as `kv_new` and `entry_new`; the keys of every call; the cache of the last
// single-token call and wherever the recording has it.
template <class T>
void CheckTap<T>::dump_cache(int block, const SequenceState& state, const Tensor<T>& kv) {
  if (dump_or_null_ == nullptr) return;
  const BlockState& stored = state.block(block);
  const LayerKind kind = recording_.config.kind(block);
  const std::int64_t entries = entries_of(block);
  const std::int64_t first = kind == LayerKind::kSwa ? 0 : call().start / ratio_of(kind);
  std::vector<T> rows(kv.data(), kv.data() + kv.size());
  const std::vector<T> added = stored_rows(stored.main.entries, first, entries);
  if (call().start == 0) {
    rows.insert(rows.end(), added.begin(), added.end());
    dump<T>(order(block, "attn.kv"), rows);
  } else {
    dump<T>(order(block, "attn.kv_new"), rows);
    if (kind != LayerKind::kSwa) dump<T>(order(block, "attn.entry_new"), added);
  }
  if (kind == LayerKind::kCsa)
    dump<T>(order(block, "attn.indexer.keys"), stored_rows(stored.index.entries, 0, entries));

  const int cache = order(block, "attn.cache");
  const bool last = call_ + 1 == static_cast<int>(recording_.calls.size()) && call().count() == 1;
  if (!last && recorded(cache) == nullptr) return;
  rows.assign(kWindow * kHeadDim, T{});
  for (std::int64_t s = 0; s < kWindow; ++s) {
    const std::int64_t p = position_of_slot(s, call().end() - 1);
    if (p < 0) continue;
    if (p >= call().start)
      std::copy_n(kv.row(p - call().start), kHeadDim, rows.data() + s * kHeadDim);
    else
      std::copy_n(stored_rows(stored.window, p % stored.ring, p % stored.ring + 1).data(), kHeadDim,
                  rows.data() + s * kHeadDim);
  }
  const std::vector<T> all = stored_rows(stored.main.entries, 0, entries);
  rows.insert(rows.end(), all.begin(), all.end());
  dump<T>(cache, rows);
}

// Staged: puts the recorded rows in place of the computed ones. Storing values that were quantised already
// changes none of them.
template <class T>
void CheckTap<T>::replace_cache(int block, SequenceState& state, Tensor<T>& kv) {
  BlockState& stored = state.block(block);
  History& h = history_[static_cast<std::size_t>(block)];
  const LayerKind kind = recording_.config.kind(block);
  const std::int64_t entries = entries_of(block);
  const auto take_window = [&](std::int64_t position, const T* row) {
    if (position >= call().start)
      std::copy_n(row, kHeadDim, kv.row(position - call().start));
    else
      stored.window.write(position % stored.ring, row);
    h.window[static_cast<std::size_t>(position)] = 1;
  };
  const auto take_entries = [&](const std::vector<T>& rec, std::int64_t from_row, std::int64_t first) {
    for (std::int64_t e = first; e < entries; ++e) {
      stored.main.entries.write(e, rec.data() + (from_row + e - first) * kHeadDim);
      h.entry[static_cast<std::size_t>(e)] = 1;
    }
  };
  for (const char* suffix : {"attn.kv", "attn.kv_new"})
    if (const StoredTensor* tensor = recorded(order(block, suffix))) {
      const std::vector<T> rec = values<T>(*tensor);
      for (std::int64_t t = 0; t < call().count(); ++t)
        take_window(call().start + t, rec.data() + t * kHeadDim);
      if (std::string_view(suffix) == "attn.kv") take_entries(rec, call().count(), 0);
    }
  if (kind != LayerKind::kSwa)
    if (const StoredTensor* tensor = recorded(order(block, "attn.entry_new")))
      take_entries(values<T>(*tensor), 0, call().start / ratio_of(kind));
  if (kind == LayerKind::kCsa)
    if (const StoredTensor* tensor = recorded(order(block, "attn.indexer.keys"))) {
      const std::vector<T> rec = values<T>(*tensor);
      for (std::int64_t e = 0; e < entries; ++e) stored.index.entries.write(e, rec.data() + e * kIndexDim);
      h.key.assign(static_cast<std::size_t>(entries), 1);
    }
  if (const StoredTensor* tensor = recorded(order(block, "attn.cache"))) {
    const std::vector<T> rec = values<T>(*tensor);
    for (std::int64_t s = 0; s < kWindow; ++s)
      if (const std::int64_t p = position_of_slot(s, call().end() - 1); p >= 0)
        take_window(p, rec.data() + s * kHeadDim);
    take_entries(rec, kWindow, 0);
  }
  if (kind == LayerKind::kCsa)
    mark_followed(kIndexKeys,
                  std::all_of(h.key.begin(), h.key.end(), [](std::uint8_t known) { return known != 0; }));
}

template <class T>
void CheckTap<T>::cache(int block, Batch& batch, Tensor<T>& kv) {
  SequenceState& state = *batch.segments[0].state;
  if (staged()) note_new_rows(block, state, kv);
  compare_cache(block, state, kv);
  dump_cache(block, state, kv);
  if (staged()) replace_cache(block, state, kv);
}

template class CheckTap<float>;
template class CheckTap<bf16>;

}  // namespace dsv4::reference::validation
