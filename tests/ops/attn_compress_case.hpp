// What the tests of attn_compress share: sequences of made-up tokens that can be appended and taken back, the
// op called on them in any batch, and beside it what the primitives say.
#pragma once

#include <dsv4/attention/compressor.hpp>
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/attention/visibility.hpp>
#include <dsv4/core/rope.hpp>
#include <dsv4/ops/attn_compress.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/op_buffers.hpp"
#include "tests/support/random.hpp"

namespace dsv4::test {

inline std::vector<float> compress_frequencies() {
  std::vector<float> freq;
  for (int i = 0; i < 32; ++i) freq.push_back(static_cast<float>(std::pow(160000.0, -i / 32.0)));
  return freq;
}

/// Bytes of a pool's memory, and what the primitive writes there.
template <class T>
struct EntryMirror {
  ops::CachePool pool;
  int channels;
  std::vector<std::uint8_t> bytes;

  EntryMirror(ops::CacheFormat format, std::int64_t slots, std::int32_t page_rows, int dim)
      : pool{.format = format, .dtype = kDType<T>, .slots = slots, .page_rows = page_rows}, channels(dim) {
    if (format == ops::CacheFormat::kRows) {
      pool.stride = dim + 16;
      bytes.assign(static_cast<std::size_t>(slots * pool.stride) * sizeof(T), 0xff);
    } else {
      const std::int64_t row = format == ops::CacheFormat::kKv584      ? 584
                               : format == ops::CacheFormat::kIndexFp4 ? 68
                                                                       : 132;
      pool.stride = (page_rows * row + 15) / 16 * 16 + 32;
      bytes.assign(static_cast<std::size_t>((slots + page_rows - 1) / page_rows * pool.stride), 0xff);
    }
  }

  void write(std::int64_t slot, const T* row) {
    const auto paged = [&](auto p) {
      p.pages = bytes.data(), p.page_stride = pool.stride;
      p.page_entries = pool.page_rows, p.slots = pool.slots;
      p.write(SerialCoop{}, slot, row);
    };
    switch (pool.format) {
      case ops::CacheFormat::kRows:
        attention::RowPool<T>{reinterpret_cast<T*>(bytes.data()), pool.stride, pool.slots, channels}.write(
            SerialCoop{}, slot, row);
        break;
      case ops::CacheFormat::kKv584:
        paged(attention::KvPagePool{});
        break;
      case ops::CacheFormat::kIndexFp4:
        paged(attention::IndexFp4Pool{});
        break;
      case ops::CacheFormat::kIndexFp8:
        paged(attention::IndexFp8Pool{});
        break;
    }
  }
};

/// The tokens of a sequence so far: what each was made from.
using History = std::vector<std::uint64_t>;

/// One compressor: parameters, states, cache, and what both should hold.
template <class T>
class CompressorCase {
 public:
  CompressorCase(attention::CompressorShape s, int rollback, std::int64_t states, ops::CacheFormat format,
                 std::int64_t slots, std::int32_t page_rows)
      : shape(s),
        mirror(format, slots, page_rows, s.dim),
        ape_(s.ratio, s.width(), normal(std::int64_t{s.ratio} * s.width(), 901)),
        norm_(1, s.dim, uniform(s.dim, 902, 0.5, 2.0)),
        state_(states, state_bytes(s, rollback), RowLayout{state_bytes(s, rollback) + 32, 16}),
        cache_(1, static_cast<std::int64_t>(mirror.bytes.size())) {}

  static std::int64_t state_bytes(attention::CompressorShape s, int rollback) {
    return static_cast<std::int64_t>(ops::attn_compress_state_bytes(s.ratio, s.dim, rollback));
  }

  /// a [width], then b [width] of a token.
  const std::vector<float>& row(std::uint64_t token) {
    auto& r = rows_[token];
    if (r.empty()) {
      r = normal(shape.row_floats(), token * 2 + static_cast<std::uint64_t>(shape.dim == 128));
      for (int c = 0; c < shape.width(); ++c) r[static_cast<std::size_t>(shape.width() + c)] *= 2;
      if (token % 1024 == kBadVersion) {
        r[5] = std::numeric_limits<float>::quiet_NaN();
        r[static_cast<std::size_t>(shape.width() + 70)] = std::numeric_limits<float>::infinity();
      }
    }
    return r;
  }

  /// What the primitives make of entry i of a sequence.
  std::vector<T> entry(const History& history, std::int64_t i) {
    std::vector<float> pooled(static_cast<std::size_t>(shape.dim)), scratch(128);
    attention::pool(
        SerialCoop{}, pooled.data(),
        [&](std::int64_t position) { return row(history[static_cast<std::size_t>(position)]).data(); }, i,
        ape_.data(), shape);
    std::vector<math::SinCos> table(32);
    rope::angles(SerialCoop{}, table.data(), compress_frequencies().data(),
                 attention::entry_position(i, shape.ratio), 32);
    std::vector<T> out(static_cast<std::size_t>(shape.dim));
    if (shape.dim == 128)
      attention::finish_index_key<128>(SerialCoop{}, out.data(), pooled.data(), norm_.data(), table.data(),
                                       64, kEps, scratch.data());
    else
      attention::finish_entry(SerialCoop{}, out.data(), pooled.data(), norm_.data(), table.data(), shape.dim,
                              64, kEps);
    return out;
  }

  /// Projections of a batch, one token a row: row t is history[t]'s, or NaNs where that is 0; strided.
  void set_batch(const History& tokens) {
    const auto n = static_cast<std::int64_t>(tokens.size());
    const RowLayout layout{shape.width() + 12, 16};
    kv_ = std::make_unique<Rows<float>>(n, shape.width(), layout);
    gate_ = std::make_unique<Rows<float>>(n, shape.width(), layout);
    for (std::int64_t t = 0; t < n; ++t) {
      if (tokens[static_cast<std::size_t>(t)] == 0) continue;
      const auto& r = row(tokens[static_cast<std::size_t>(t)]);
      std::copy_n(r.begin(), shape.width(), kv_->row(t));
      std::copy_n(r.begin() + shape.width(), shape.width(), gate_->row(t));
    }
  }

  ops::CompressorParams params(const std::vector<std::int32_t>& slots) {
    ops::CompressorParams p = {.kv = kv_->data(),
                               .gate = gate_->data(),
                               .ape = ape_.data(),
                               .norm = norm_.data(),
                               .state = state_.data(),
                               .entries = mirror.pool,
                               .entry_slots = slots.data(),
                               .kv_stride = kv_->stride(),
                               .gate_stride = gate_->stride(),
                               .state_stride = state_.stride(),
                               .dim = shape.dim};
    p.entries.data = cache_.data();
    return p;
  }

  std::vector<std::uint8_t> state() const { return state_.values(); }
  void set_state(const std::vector<std::uint8_t>& bytes) { state_.set(bytes); }
  std::vector<std::uint8_t> cache() const { return cache_.values(); }

  /// Empty where the cache holds what the mirror does and nothing else was written.
  std::string check() const {
    for (const std::string& s : {difference(cache_, mirror.bytes), cache_.intact(), state_.intact(),
                                 kv_->intact(), gate_->intact(), ape_.intact(), norm_.intact()})
      if (!s.empty()) return s;
    return {};
  }

  static constexpr float kEps = 1e-6f;
  static constexpr std::uint64_t kBadVersion = 1023;  // of a token that holds a NaN and an infinite logit
  attention::CompressorShape shape;
  EntryMirror<T> mirror;

 private:
  Rows<float> ape_, norm_;
  Rows<std::uint8_t> state_;
  Rows<std::uint8_t> cache_;
  std::unique_ptr<Rows<float>> kv_, gate_;
  std::map<std::uint64_t, std::vector<float>> rows_;
};

/// What a case is made of.
struct CompressSetup {
  int ratio = 4;
  int max_rollback = 16;
  std::int64_t sequences = 1;  // as many states
  ops::CacheFormat main = ops::CacheFormat::kKv584, index = ops::CacheFormat::kIndexFp4;
  std::int32_t page_rows = 64;
  std::int64_t entries = 128;  // of a sequence
  bool has_main = true, has_index = true;
};

/// Sequences 0, 1, ... of a layer, each with its own state and its own slots.
template <class T>
class CompressCase {
 public:
  /// New tokens of one sequence in a call: `count` more, behind the first `start` that it has.
  struct Append {
    std::int64_t sequence, start, count;
    std::uint64_t version = 1;  // makes other tokens of the same positions
  };

  explicit CompressCase(const CompressSetup& s)
      : setup(s), histories(static_cast<std::size_t>(s.sequences)), freq_(1, 32, compress_frequencies()) {
    const std::int64_t all = s.sequences * s.entries;
    if (s.has_main)
      main = std::make_unique<CompressorCase<T>>(attention::CompressorShape{s.ratio, 512}, s.max_rollback,
                                                 s.sequences, s.main, all, s.page_rows);
    if (s.has_index && s.ratio == 4)
      index = std::make_unique<CompressorCase<T>>(attention::CompressorShape{4, 128}, s.max_rollback,
                                                  s.sequences, s.index, all, s.page_rows);
  }

  /// Slot of entry i of a sequence: scattered.
  std::int32_t slot(std::int64_t sequence, std::int64_t i) const {
    return static_cast<std::int32_t>((i * setup.sequences + sequence) * 37 %
                                     (setup.sequences * setup.entries));
  }

  /// Lays out a batch in which the sequences of `appends` stand in that order, `padding` rows of NaNs on
  /// either side; what has been made of it is kept in the members below.
  void lay_out(const std::vector<Append>& appends, std::int64_t padding = 0) {
    first_token.clear(), start.clear(), start64.clear(), state_of.clear();
    History rows(static_cast<std::size_t>(padding), 0);
    slots.assign(static_cast<std::size_t>(padding), -1);
    for (const Append& a : appends) {
      History& h = histories[static_cast<std::size_t>(a.sequence)];
      first_token.push_back(static_cast<std::int32_t>(rows.size()));
      start.push_back(static_cast<std::int32_t>(a.start)), start64.push_back(a.start);
      state_of.push_back(static_cast<std::int32_t>(a.sequence));
      if (a.count > 0) h.resize(static_cast<std::size_t>(a.start));  // nothing changes without new tokens
      for (std::int64_t position = a.start; position < a.start + a.count; ++position) {
        const auto token = static_cast<std::uint64_t>(position * 64 + a.sequence) * 1024 + a.version;
        h.push_back(token), rows.push_back(token);
        const bool completes = (position + 1) % setup.ratio == 0;
        // Rows that complete nothing: what stands there does not matter.
        slots.push_back(completes ? slot(a.sequence, position / setup.ratio) : kNoMatter);
        if (completes) completed_.push_back({a.sequence, position / setup.ratio});
      }
    }
    first_token.push_back(static_cast<std::int32_t>(rows.size()));
    rows.resize(rows.size() + static_cast<std::size_t>(padding), 0);
    slots.resize(rows.size(), -1);
    tokens = static_cast<std::int64_t>(rows.size());
    if (main) main->set_batch(rows);
    if (index) index->set_batch(rows);
  }

  ops::AttnCompressParams params() {
    ops::AttnCompressParams p = {.first_token = first_token.data(),
                                 .start = start.data(),
                                 .state_of = state_of.data(),
                                 .rope = {.freq = freq_.data()},
                                 .tokens = tokens,
                                 .sequences = static_cast<std::int64_t>(start.size()),
                                 .states = setup.sequences,
                                 .ratio = setup.ratio,
                                 .max_rollback = setup.max_rollback,
                                 .rope_dim = 64,
                                 .eps = CompressorCase<T>::kEps,
                                 .dtype = kDType<T>};
    if (main) p.main = main->params(slots);
    if (index) p.index = index->params(slots);
    return p;
  }

  /// Sequence number k of the batch gets this state number, outside the states, and nothing more.
  void skip(std::size_t k, std::int32_t number) {
    const std::int64_t sequence = state_of[k];
    state_of[k] = number;
    std::erase_if(completed_, [&](const Completed& c) { return c.sequence == sequence; });
  }
  /// Gives the entry that a sequence completes in the batch this slot, outside the pool.
  void unstore(std::int64_t sequence, std::int64_t entry, std::int32_t bad) {
    std::replace(slots.begin(), slots.end(), slot(sequence, entry), bad);
    std::erase_if(completed_, [&](const Completed& c) { return c.sequence == sequence && c.entry == entry; });
  }

  /// The batch that was laid out will not be run.
  void expect_nothing() { completed_.clear(); }

  /// What the primitives write for the batch.
  void expect() {
    for (const auto& [sequence, i] : completed_)
      for (CompressorCase<T>* c : {main.get(), index.get()})
        if (c)
          c->mirror.write(slot(sequence, i),
                          c->entry(histories[static_cast<std::size_t>(sequence)], i).data());
    completed_.clear();
  }
  std::string check() const {
    for (const CompressorCase<T>* c : {main.get(), index.get()})
      if (c)
        if (const std::string s = c->check(); !s.empty()) return (c == main.get() ? "main: " : "index: ") + s;
    return {};
  }

  /// One call, checked against the primitives.
  void append(const std::vector<Append>& appends, std::int64_t padding = 0) {
    lay_out(appends, padding);
    REQUIRE_OK(ops::attn_compress(params(), nullptr));
    expect();
    REQUIRE(check() == "");
  }

  std::vector<std::uint8_t> state() const {
    std::vector<std::uint8_t> bytes;
    for (const CompressorCase<T>* c : {main.get(), index.get()})
      if (c)
        for (const std::uint8_t b : c->state()) bytes.push_back(b);
    return bytes;
  }

  static constexpr std::int32_t kNoMatter = 1;
  CompressSetup setup;
  std::vector<History> histories;
  std::unique_ptr<CompressorCase<T>> main, index;
  std::vector<std::int32_t> first_token, start, state_of, slots;
  std::vector<std::int64_t> start64;
  std::int64_t tokens = 0;

 private:
  struct Completed {
    std::int64_t sequence, entry;
  };
  std::vector<Completed> completed_;
  Rows<float> freq_;
};

}  // namespace dsv4::test
