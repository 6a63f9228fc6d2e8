// What a compressor keeps of a sequence between calls, in one piece of memory: any chunking leaves the same
// bytes, and the newest tokens may be taken back.
#pragma once

#include <dsv4/attention/compressor.hpp>
#include <dsv4/core/config.hpp>

#include <cstddef>
#include <cstdint>

namespace dsv4::attention {

/// Layout of the state of one compressor of one sequence (f32 but for the length), of which any call may take
/// back up to max_rollback tokens, counted from the greatest length that the sequence ever reached:
///     ratio 4    ring
///     ratio 128  length i64, 8 bytes of 0, max [dim], sum [dim], acc [dim], ring
/// The ring [ring_rows, row_floats] holds the projections of the newest tokens, a [width] and b [width], that
/// of position p in row p mod ring_rows.
///
/// At ratio 4 an entry needs 7 tokens before its last. At ratio 128 that would be 127 rows of 4 KiB, so what
/// can no longer be taken back is folded: (max, sum, acc) is the PoolState of the tokens from the beginning
/// of their block up to position folded(length). Folding a granule at a time, the 6 KiB are read and written
/// once in 16 tokens. `length` is the greatest one reached; folded() depends on nothing else, hence neither
/// do the bytes.
struct CompressorLayout {
  static constexpr int kGranule = 16;      // tokens folded at a time; divides the ratio
  static constexpr int kHeaderBytes = 16;  // of a state that folds

  CompressorShape shape;
  int max_rollback;

  DSV4_HD constexpr bool folds() const { return !shape.overlaps(); }
  DSV4_HD constexpr int ring_rows() const { return max_rollback + (folds() ? kGranule : shape.span()) - 1; }
  DSV4_HD constexpr std::size_t checkpoint_bytes() const {
    return folds() ? 3 * sizeof(float) * static_cast<std::size_t>(shape.dim) : 0;
  }
  DSV4_HD constexpr std::size_t ring_offset() const {
    return folds() ? kHeaderBytes + checkpoint_bytes() : 0;
  }
  DSV4_HD constexpr std::size_t bytes() const {
    return ring_offset() + sizeof(float) * static_cast<std::size_t>(shape.row_floats()) *
                               static_cast<std::size_t>(ring_rows());
  }

  /// First position that is not folded when `length` is the greatest length reached. All from there on are in
  /// the ring, and none before the one that a call may start at is folded.
  DSV4_HD constexpr std::int64_t folded(std::int64_t length) const {
    return !folds() || length < max_rollback ? 0 : (length - max_rollback) / kGranule * kGranule;
  }
};

/// Tokens start .. end - 1 of a sequence, added by one call.
struct Chunk {
  std::int64_t start, end;
};

/// Is entry i, which the chunk completes, pooled by whoever has the state? It is where tokens of earlier
/// calls belong to it. At ratio 128 the block in which folding ends joins them, so that its rows are read
/// once. Depends on the chunk alone: those who pool the other entries do not see the state.
DSV4_HD constexpr bool needs_state(const CompressorLayout& layout, std::int64_t entry, const Chunk& chunk) {
  const std::int64_t last = (entry + 1) * layout.shape.ratio;
  const std::int64_t reach = entry > 0 ? last - layout.shape.span() : 0;
  const std::int64_t folded = layout.folded(chunk.end);
  return reach < chunk.start || (reach < folded && folded < last);
}

/// What folding ONE block of ratio 128 in a call means. The chunk's first block and the one in which
/// folded(end) lies are all that have something to fold.
struct BlockFold {
  std::int64_t begin;  // first position, a granule's; where it is not the block's first, onto the checkpoint
  std::int64_t save;   // here the sum so far becomes the checkpoint; begin <= save <= end, or -1 = not
  std::int64_t end;    // one past the last position
  bool pools;          // the block to its end, for its entry
};

///   length  greatest length reached before the call, 0 for a new sequence
///   wanted  whether the entry, should the chunk complete it, is stored anywhere
DSV4_HD constexpr BlockFold fold_of(const CompressorLayout& layout, std::int64_t block, std::int64_t length,
                                    const Chunk& chunk, bool wanted) {
  const std::int64_t first = block * layout.shape.ratio, last = first + layout.shape.ratio;
  const std::int64_t before = layout.folded(length), after = layout.folded(chunk.end);
  BlockFold f{before > first ? before : first, -1, 0, false};
  f.end = f.begin;
  if (after > before && after >= first && after < last) f.end = f.save = after;
  f.pools = wanted && chunk.start < last && last <= chunk.end && needs_state(layout, block, chunk);
  if (f.pools) f.end = last;
  return f;
}

}  // namespace dsv4::attention
