// The attention of a CSA layer on ops: weights, caches in pages, and one call that takes a batch of new
// tokens of any sequences, be they prefill, decode or drafts.
//
// One page table serves all three caches: a page stands for 64 tokens of a sequence and holds, in its share
// of each pool, their 64 window rows, 16 compressed entries and 16 index keys.
#pragma once

#include <dsv4/ops/attn_attend.hpp>
#include <dsv4/ops/attn_compress.hpp>
#include <dsv4/ops/attn_index.hpp>
#include <dsv4/ops/attn_out_proj.hpp>
#include <dsv4/ops/attn_proj.hpp>
#include <dsv4/ops/linear.hpp>

#include "examples/common/device.hpp"
#include "examples/common/random.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace examples {

using namespace dsv4;

inline constexpr int kHidden = 256, kLora = 128, kHeads = 16, kIndexHeads = 8, kGroups = 2, kRank = 64;
inline constexpr int kDim = 512, kIndexDim = 128, kRope = 64, kWindow = 128, kTopK = 16, kRatio = 4;
inline constexpr int kPageTokens = 64, kPageEntries = kPageTokens / kRatio, kMaxPages = 4;
inline constexpr int kMaxRollback = 8;  // tokens that may be taken back
inline constexpr float kEps = 1e-6f;

/// New tokens: those of a sequence side by side, in order. Everything is in device memory, so a captured
/// graph can be replayed with other contents.
struct Step {
  Buffer<bf16> x;                                  // [tokens, hidden], after the layer's norm
  Buffer<std::int32_t> positions, sequence_of;     // [tokens]
  Buffer<std::int32_t> window_slots, entry_slots;  // [tokens] where a token goes, and the entry that it ends
  Buffer<std::int32_t> first_token{0}, start;      // [sequences + 1], [sequences]
  Buffer<std::int32_t> state_of, pages;            // [sequences], [sequences, kMaxPages]
};

/// Projections, parameters, states and cache of the main or the index compressor.
struct Compressor {
  int dim, width = 2 * dim;
  Bf16Matrix kv_gate;  // Wkv over Wgate: [2 * width, hidden]
  Buffer<float> ape, norm, rows;
  Buffer<std::uint8_t> states, pages;
  std::size_t state_bytes = ops::attn_compress_state_bytes(kRatio, dim, kMaxRollback);
  ops::CachePool pool;

  Compressor(int d, ops::CacheFormat format, int row_bytes, int page_count, int sequences, std::uint64_t seed)
      : dim(d), kv_gate(2 * width, kHidden, seed) {
    ape = random<float>(kRatio * width, seed + 1), norm = random<float>(dim, seed + 2, 0.5f, 1.0f);
    states.resize(static_cast<std::size_t>(sequences) * state_bytes);
    pages.resize(static_cast<std::size_t>(page_count * kPageEntries * row_bytes));
    pool = {.data = pages.data(), .format = format, .slots = page_count * kPageEntries};
    pool.page_rows = kPageEntries;
  }
  ops::CompressorParams params(const Step& s) const {
    return {.kv = rows.data(),
            .gate = rows.data() + width,
            .ape = ape.data(),
            .norm = norm.data(),
            .state = const_cast<std::uint8_t*>(states.data()),
            .entries = pool,
            .entry_slots = s.entry_slots.data(),
            .kv_stride = 2 * width,
            .gate_stride = 2 * width,
            .dim = dim};
  }
};

class CsaLayer {
 public:
  CsaLayer(int pages, int sequences);

  /// Queues the layer and waits for it: [tokens, hidden] out. (An engine keeps the buffers and does not
  /// wait.)
  Buffer<bf16> forward(const Step& s, Stream stream);

  /// What a sequence has beside its pages, 0.2 MB here: kept at the end of a prefix that others may share.
  struct State {
    Buffer<std::uint8_t> main, index;
  };
  State save(int sequence) const {
    const auto part = [&](const Compressor& c) {
      const std::uint8_t* from = c.states.data() + static_cast<std::size_t>(sequence) * c.state_bytes;
      return Buffer<std::uint8_t>(from, from + c.state_bytes);
    };
    return {part(main_), part(index_)};
  }
  void restore(int sequence, const State& s) {
    const auto part = [&](Compressor& c, const Buffer<std::uint8_t>& bytes) {
      std::memcpy(c.states.data() + static_cast<std::size_t>(sequence) * c.state_bytes, bytes.data(),
                  bytes.size());
    };
    part(main_, s.main), part(index_, s.index);
  }

 private:
  Fp8Matrix wq_a_{kLora, kHidden, 1}, wkv_{kDim, kHidden, 2}, wq_b_{kHeads * kDim, kLora, 3},
      wq_index_{kIndexHeads * kIndexDim, kLora, 4}, wo_a_{kGroups * kRank, kHeads*kDim / kGroups, 5},
      wo_b_{kHidden, kGroups*kRank, 6};
  Bf16Matrix wproj_{kIndexHeads, kHidden, 7};
  Buffer<float> q_norm_ = random<float>(kLora, 8, 0.5f, 1.0f), kv_norm_ = random<float>(kDim, 9, 0.5f, 1.0f),
                sink_ = random<float>(kHeads, 10), freq_ = Buffer<float>(kRope / 2);
  Buffer<std::uint8_t> window_;
  ops::CachePool window_pool_;
  Compressor main_, index_;
  int sequences_;
};

}  // namespace examples
