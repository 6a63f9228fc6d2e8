// The k best entries of a token, by one block or by several that each take a piece of the row.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/attention/page_table.hpp>
#include <dsv4/attention/top_k.cuh>
#include <dsv4/core/topk.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

/// How a row is cut into pieces, one for a block: at most `pieces`, of `least` entries at least. The grid
/// holds room for all of them; the length follows the entries that a token sees, so that a graph captured for
/// long rows shares out short ones as well.
struct RowSplit {
  std::int32_t pieces;
  std::int32_t least;  // a multiple of 32

  DSV4_HD int length(std::int64_t visible) const {
    const auto even = static_cast<int>((visible + pieces - 1) / pieces);
    return even <= least ? least : (even + 31) / 32 * 32;
  }
};

/// The best of each piece, by entry ascending: `stride` pairs, keys above 0 first, then pairs of key 0.
/// Pieces that hold none of the entries that a token sees are not written.
///   key, index  [tokens, pieces, stride], 16-byte aligned
struct Winners {
  std::uint32_t* key;
  std::uint32_t* index;
  std::int64_t stride;  // k, up to a multiple of 4
};

/// Where the chosen entries of a token go.
struct ChosenRows {
  std::int32_t* idx;
  std::int64_t stride;
  PageTable table;                          // as_slots
  const std::int32_t* sequence_of_or_null;  // [tokens] row of `table`; null = the token's own
  std::int64_t slots;
  std::int32_t k;
  bool as_slots;
};

/// A row of scores as a stream of entries.
struct ScoreStream {
  using Raw = float;
  const float* scores;

  DSV4_DEVICE Raw load(int at) const { return arch::load<arch::Cache::kStreaming>(scores + at); }
  DSV4_DEVICE static Raw none() { return bits_as<float>(0x7fc00000u); }
  DSV4_DEVICE static std::uint32_t key(Raw raw) { return topk::key(raw); }
  DSV4_DEVICE static std::uint32_t index(Raw, int at) { return static_cast<std::uint32_t>(at); }
};

/// The winners of a token's pieces, one after the other.
struct WinnerStream {
  struct Raw {
    std::uint32_t key, index;
  };
  const std::uint32_t *keys, *indices;

  DSV4_DEVICE Raw load(int at) const {
    return {arch::load<arch::Cache::kStreaming>(keys + at),
            arch::load<arch::Cache::kStreaming>(indices + at)};
  }
  DSV4_DEVICE static Raw none() { return {0, 0}; }
  DSV4_DEVICE static std::uint32_t key(const Raw& raw) { return raw.key; }
  DSV4_DEVICE static std::uint32_t index(const Raw& raw, int) { return raw.index; }
};

/// Appends entries [begin, end) of a stream, two tiles ahead of their use in flight. A warp's loads take 128
/// contiguous bytes each; a wider load would hand a lane neighbours, and the candidates' order would cost a
/// shuffle.
template <class Best, class Stream>
DSV4_DEVICE void append_stream(Best& best, const Stream& stream, int begin, int end) {
  constexpr int kN = Best::kTile / Best::kThreads;
  const int mine = arch::warp_id() * (kN * arch::kWarpThreads) + arch::lane_id();
  struct Tile {
    typename Stream::Raw raw[kN];
  };
  const auto load = [&](int first) {
    Tile tile;
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i) {
      const int at = first + mine + i * arch::kWarpThreads;
      tile.raw[i] = at < end ? stream.load(at) : Stream::none();
    }
    return tile;
  };
  Tile next[2] = {load(begin), load(begin + Best::kTile)};
  for (int first = begin; first < end; first += Best::kTile) {
    const Tile now = next[0];
    next[0] = next[1];
    next[1] = load(first + 2 * Best::kTile);
    std::uint32_t key[kN], index[kN];
    DSV4_UNROLL
    for (int i = 0; i < kN; ++i) {
      key[i] = Stream::key(now.raw[i]);
      index[i] = Stream::index(now.raw[i], first + mine + i * arch::kWarpThreads);
    }
    best.append(key, index);
  }
}

/// Ends a stream and writes what it chose for `token`, in the final order.
template <class Best>
DSV4_DEVICE void write_chosen(Best& best, const typename Best::Storage& storage, const ChosenRows& out,
                              std::int64_t token) {
  const int count = best.finish();
  best.sort();
  const std::int64_t sequence =
      out.as_slots && out.sequence_of_or_null ? out.sequence_of_or_null[token] : token;
  std::int32_t* idx = out.idx + token * out.stride;
  for (int i = static_cast<int>(arch::thread_idx().x); i < out.k; i += Best::kThreads) {
    std::int64_t value = -1;
    if (i < count) {
      value = storage.candidates.index[i];
      if (out.as_slots) value = out.table.slot(sequence, value);
      if (out.as_slots && value >= out.slots) value = -1;
    }
    arch::store(idx + i, static_cast<std::int32_t>(value));
  }
}

/// Ends a stream and hands what it chose on: to pairs [list * stride, +stride) of `winners`.
template <class Best>
DSV4_DEVICE void write_winners(Best& best, const typename Best::Storage& storage, const Winners& winners,
                               std::int64_t list) {
  const int count = best.finish();
  for (int i = static_cast<int>(arch::thread_idx().x); i < winners.stride; i += Best::kThreads) {
    const bool chosen = i < count;
    arch::store(winners.key + list * winners.stride + i, chosen ? storage.candidates.key[i] : 0u);
    arch::store(winners.index + list * winners.stride + i, chosen ? storage.candidates.index[i] : 0u);
  }
}

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
