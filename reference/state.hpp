// What a sequence leaves behind: window rings, compressed entries, index keys and the compressors' open
// blocks.
#pragma once

#include <dsv4/attention/compressor.hpp>
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/core/status.hpp>
#include <dsv4/model_config.hpp>

#include "reference/model.hpp"

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace dsv4::reference {

/// How a row is stored.
enum class RowFormat : std::uint8_t {
  kF32,       // plain f32
  kKv584,     // 584-byte key-value entry (spec formats section 1)
  kIndexFp4,  // 68-byte FP4 index key (spec formats section 2)
};

/// Rows in pages of 64, allocated as they are written and shared between copies until one of them writes
/// (copy on write), so that copying a store costs a pointer a page. Reading is thread-safe; writing is not.
class RowStore {
 public:
  static constexpr int kPageRows = 64;

  RowStore() = default;
  RowStore(RowFormat format, int channels);

  /// Stores one row [channels] of f32 or bf16; kKv584 and kIndexFp4 quantise it.
  template <class T>
  void write(std::int64_t slot, const T* row);
  /// Decodes a row that was written into `buffer` [channels], unless it is f32 already.
  void read(std::int64_t slot, float* buffer) const;
  /// Where the row is found after `read`.
  const float* view(std::int64_t slot, const float* buffer) const;

  /// The stored bytes of one row, the same in every page: data, then scales.
  std::int64_t row_bytes() const { return row_bytes_; }
  void get_bytes(std::int64_t slot, std::uint8_t* out) const;
  void set_bytes(std::int64_t slot, const std::uint8_t* in);

  /// Forgets every row.
  void clear() { pages_.clear(); }

  RowFormat format() const { return format_; }
  int channels() const { return channels_; }
  /// Bytes of all pages this store refers to.
  std::int64_t bytes() const { return static_cast<std::int64_t>(pages_.size()) * kPageRows * row_bytes_; }

 private:
  using Page = std::shared_ptr<std::uint8_t[]>;

  std::uint8_t* writable(std::int64_t slot);
  const std::uint8_t* page(std::int64_t slot) const;

  RowFormat format_ = RowFormat::kF32;
  int channels_ = 0;
  std::int64_t row_bytes_ = 0;
  std::vector<Page> pages_;
};

/// Rows [0, slots) of a store as a pool that attention primitives read.
struct StorePool {
  const RowStore* store;
  std::int64_t slots;

  void read(std::int64_t slot, float* buffer) const { store->read(slot, buffer); }
  const float* view(std::int64_t slot, const float* buffer) const { return store->view(slot, buffer); }
};

/// One compressor's rows and what they were pooled to. Rows of the newest positions lie in a ring.
struct CompressorState {
  attention::CompressorShape shape{};
  std::int64_t ring = 0;  // slots: shape.span() + max_rollback
  RowStore rows;          // [ring] of shape.row_floats() f32: the row of position p at slot p % ring
  RowStore entries;       // entry i at slot i
  /// What a backend on ops keeps beside `rows`: the op's state, for it alone to read. Empty = none yet: the
  /// backend makes it from `rows`. Who changes `rows` without it empties it.
  std::vector<std::uint8_t> running;
};

/// State of one block.
struct BlockState {
  LayerKind kind = LayerKind::kSwa;
  std::int64_t ring = 0;  // window slots: 128 + max_rollback
  RowStore window;        // [ring]: the key-value row of position p at slot p % ring
  CompressorState main;   // CSA, HCA
  CompressorState index;  // CSA: entries are the index keys
};

struct StateOptions {
  /// How far below the greatest length ever reached `rollback` may go.
  std::int32_t max_rollback = 64;
  /// Whether the MTP block has a state too (then every forward pass must run it).
  bool mtp = false;
};

/// Everything one sequence needs to go on. Copying (or fork) shares pages until either side writes. The bits
/// depend on the tokens appended and kept alone: not on chunks, rollbacks or what shared a batch. Bytes a
/// sequence of n tokens, deploy mode: each block 584 * (128 + max_rollback); CSA adds (584 + 68) * n/4 and
/// 10240 * (8 + max_rollback); HCA adds 584 * n/128 and 4096 * (128 + max_rollback) (pages of 64 rows round
/// up).
class SequenceState {
 public:
  SequenceState(const ModelConfig& config, NumericMode mode, StateOptions options = {});

  std::int64_t length() const { return length_; }
  NumericMode mode() const { return mode_; }
  int blocks() const { return static_cast<int>(blocks_.size()); }
  bool has_mtp() const { return options_.mtp; }
  BlockState& block(int b) { return blocks_[static_cast<std::size_t>(b)]; }
  const BlockState& block(int b) const { return blocks_[static_cast<std::size_t>(b)]; }

  /// Smallest position that `rollback` accepts: max(0, greatest length reached - max_rollback).
  std::int64_t rollback_floor() const;
  /// Drops the tokens at `position` and after: the sequence is as if they had never been appended.
  /// invalid_argument (and nothing changed) unless rollback_floor() <= position <= length().
  Status rollback(std::int64_t position);
  /// An independent copy; memory is shared until either writes.
  SequenceState fork() const { return *this; }

  /// What a blob holds: kHistory keeps what `rollback` needs; kLive only what the next token needs, so that
  /// two sequences of the same tokens give the same bytes however they came about.
  enum class Extent { kHistory, kLive };
  std::vector<std::uint8_t> save(Extent extent = Extent::kHistory) const;
  /// Reads a blob of `save` for the same configuration, mode and options. invalid_argument, and `*this`
  /// unchanged, if it is truncated, damaged (checksum), of another version or of another configuration.
  Status restore(std::span<const std::uint8_t> blob);

  /// Memory of all pages in bytes (pages shared with a fork count in both).
  std::int64_t bytes() const;

  /// Called by the forward pass when it has appended `count` tokens to every block.
  void advance(std::int64_t count);

 private:
  NumericMode mode_;
  StateOptions options_;
  std::int64_t max_positions_ = 0;
  std::int64_t length_ = 0;
  std::int64_t high_ = 0;  // greatest length ever reached: ring slots older than high_ - ring are overwritten
  std::vector<BlockState> blocks_;
};

}  // namespace dsv4::reference
