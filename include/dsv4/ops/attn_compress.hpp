// Op attn_compress: compressed entries of CSA and HCA layers, and index keys, for any ragged batch.
#pragma once

#include <dsv4/ops/cache.hpp>
#include <dsv4/ops/common.hpp>

#include <cstddef>
#include <cstdint>

namespace dsv4::ops {

/// One compressor: its projections, parameters, state and destination.
struct CompressorParams {
  // The f32 tensors are 16-byte aligned, their strides multiples of 4.
  const float* kv = nullptr;  // [tokens, width] f32: a = Wkv_c x; width = 2 dim at ratio 4, dim at ratio 128;
                              // null = absent
  const float* gate = nullptr;  // [tokens, width] f32: b = Wgate x, without ape
  const float* ape = nullptr;   // [ratio, width] f32
  const float* norm = nullptr;  // [dim] f32
  void* state = nullptr;   // state i at byte i * state_stride; 16-byte aligned. What a state holds before
                           // its sequence's first token (start position 0) does not matter. A state of
                           // zeros may begin at the first token of a later block too, as if those before
                           // had not been: at ratio 4 that block's entry lacks them
  CachePool entries = {};  // dim 512: kKv584 or kRows; dim 128: kIndexFp4, kIndexFp8 or kRows (of dtype)
  const void* entry_slots = nullptr;  // [tokens] slot_type: slot for the entry that token t completes; read
                                      // for those tokens alone. Outside [0, entries.slots) = not stored
  std::int64_t kv_stride = 0;         // between tokens; 0 = width
  std::int64_t gate_stride = 0;       // between tokens; 0 = width
  std::int64_t state_stride = 0;      // bytes, a multiple of 16; 0 = attn_compress_state_bytes
  SlotType slot_type = SlotType::kInt32;
  std::int32_t dim = 0;  // 512 (main) or 128 (index: followed by the Hadamard transform)
};

/// Adds the batch's tokens to the compressors' states and writes the entries that they complete. Token rows
/// first_token[s] .. first_token[s+1] - 1 belong to sequence s, at positions start[s], start[s] + 1, ...
///     entry i = quantise(hadamard?(RoPE_{i*ratio}(norm(round_T(pool(rows of its tokens))))))
/// (spec sections 5.1 and 5.2; primitives attention::pool, finish_entry, finish_index_key)
/// A sequence goes back by being called with a smaller start: down to max_rollback tokens below the greatest
/// length it ever reached, nothing needs computing again, and what was written of entries that end behind is
/// written again when they are complete again. Start 0 begins a new sequence, whatever the state holds. Every
/// other call starts at the greatest length ever reached or below, where tokens have been (promised).
struct AttnCompressParams {
  CompressorParams main = {};
  CompressorParams index = {};                // ratio 4 only; either may be absent
  const std::int32_t* first_token = nullptr;  // [sequences + 1], ascending; rows outside belong to nobody
  const void* start = nullptr;                // [sequences] start_type: position of the first new token
  const std::int32_t* state_of = nullptr;     // [sequences] which state; null = state s. Outside [0, states):
                                              // the sequence is skipped. Distinct (promised)
  RopeTable rope = {};
  std::int64_t tokens = 0;     // rows of kv and gate, padding included: 0 .. 2^31-1
  std::int64_t sequences = 0;  // 0 .. 2^31-1
  std::int64_t states = 0;
  std::int32_t ratio = 0;         // 4 or 128
  std::int32_t max_rollback = 0;  // 0 .. 1024; the same at every call on a state
  std::int32_t rope_dim = 0;      // 64
  float eps = 0.0f;
  PositionType start_type = PositionType::kInt32;
  DType dtype = DType::kBf16;  // what every step is rounded to, and the element of kRows
};

inline namespace DSV4_FLAVOUR {
/// One launch. Terms are added in order of position, one after the other, so an entry's bits depend on its
/// tokens alone: not on chunks, rollbacks or the batch. Bit for bit the primitive (a NaN is a NaN, of
/// whatever sign). Deterministic; no workspace; does not synchronise; reads lengths on the device.
[[nodiscard]] DSV4_API Status attn_compress(const AttnCompressParams& p, Stream stream) noexcept;

/// Bytes of the state of one compressor of one sequence, a multiple of 16; 0 for arguments that the op
/// refuses. With R = max_rollback (attention/compressor_state.hpp):
///     ratio 4    dim 512: 8192 (R + 7)    dim 128: 2048 (R + 7)
///     ratio 128  dim 512: 4096 (R + 15) + 6160
/// which for R = 16 is 188416, 47104 and 133136.
[[nodiscard]] DSV4_API std::size_t attn_compress_state_bytes(std::int32_t ratio, std::int32_t dim,
                                                             std::int32_t max_rollback) noexcept;
}  // namespace DSV4_FLAVOUR

}  // namespace dsv4::ops
