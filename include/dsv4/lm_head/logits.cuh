// Logits by tensor cores: bf16 activations times bf16 head weights, summed in fp32.
#pragma once

#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/config.cuh>
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/mma.cuh>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::lm_head::inline DSV4_FLAVOUR {

/// One matrix product, and which part of it exists.
struct LogitsProblem {
  float* logits;                               // [tokens] rows of logits_stride
  const bf16* x;                               // rows of x_stride, 16-byte aligned
  const bf16* head;                            // [vocab] rows of head_stride, 16-byte aligned
  const std::int32_t* rows_or_null;            // [tokens] rows of x; null = 0, 1, 2, ...
  std::int64_t tokens, x_rows, vocab, hidden;  // hidden a multiple of 8
  std::int64_t logits_stride, x_stride, head_stride;

  /// Row of x for token t < tokens; -1 if it names none.
  DSV4_DEVICE std::int64_t row(std::int64_t t) const {
    if (!rows_or_null) return t;
    const std::int64_t r = rows_or_null[t];
    return r >= 0 && r < x_rows ? r : -1;
  }
};

/// A block's tile of kTokens tokens by kVocab weight rows.
///
/// Weights are the 16-row side of m16n8k16, so that a single token wastes activations, which are few, and not
/// weights, which are what memory has to deliver. They go from memory to registers, 16 bytes a lane and one
/// chunk ahead: a lane that holds channels 8t .. 8t+7 of a row has the operands of two products, if these
/// take the channels of a group of 32 in the order 0 1 8 9 16 17 24 25 2 3 10 11 ... instead of 0 1 2 3. The
/// activations come in the same order from shared memory, double-buffered.
///
/// One order of summation for every token and every tile size: chunks of kChunk channels ascending, in a
/// chunk 8 products accumulated by the tensor core from zero, the chunks' sums added in fp32 registers
/// (tensor cores truncate sums, so long chains in them lose bits).
template <int kTokens_>
struct LogitsTile {
  static constexpr int kTokens = kTokens_;
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * arch::kWarpThreads;
  static constexpr int kVocab = kWarps * 16;
  static constexpr int kChunk = 128;
  // 64 bytes beyond a multiple of 128: the two rows that 8 lanes read together lie in different banks.
  static constexpr int kPitch = kChunk + 32;
  static constexpr int kStages = 2;
  static constexpr int kSharedBytes = kStages * kTokens * kPitch * static_cast<int>(sizeof(bf16));
  static_assert(kTokens % 8 == 0, "the tensor core takes 8 tokens at a time");
  static_assert(kSharedBytes <= 48 * 1024, "static limit of shared memory");

  using Words = arch::Vec<std::uint32_t, 4>;  // 8 bf16

  /// Writes logits [first_token, +kTokens) x [first_vocab, +kVocab) as far as they exist; NaN for a token
  /// whose row does not.
  ///   x_tile  kSharedBytes of shared memory, 16-byte aligned
  /// Called by all kThreads threads of a block; synchronises.
  DSV4_DEVICE static void run(const LogitsProblem& p, std::int64_t first_token, std::int64_t first_vocab,
                              bf16* x_tile) {
    const int lane = arch::lane_id(), g = lane / 4, t = lane % 4;
    const std::int64_t v = first_vocab + arch::warp_id() * 16 + g;  // and v + 8
    const bf16* weight[2];
    DSV4_UNROLL
    for (int half = 0; half < 2; ++half)
      weight[half] = v + half * 8 < p.vocab ? p.head + (v + half * 8) * p.head_stride : nullptr;
    Loader loader(p, first_token);

    const std::int64_t chunks = (p.hidden + kChunk - 1) / kChunk;
    float total[kTiles][4] = {};
    Words next[kSteps][2];
    loader.issue(p, 0, x_tile);
    load_weights(next, weight, 8 * t, p.hidden);
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      arch::cp_async_wait_all();
      arch::sync_threads();  // this chunk's activations are there, and everyone is done with the other stage
      const bf16* stage = x_tile + chunk % kStages * (kTokens * kPitch);
      Words now[kSteps][2];
      DSV4_UNROLL
      for (int i = 0; i < kSteps; ++i) now[i][0] = next[i][0], now[i][1] = next[i][1];
      if (chunk + 1 < chunks) {
        loader.issue(p, (chunk + 1) * kChunk, x_tile + (chunk + 1) % kStages * (kTokens * kPitch));
        load_weights(next, weight, (chunk + 1) * kChunk + 8 * t, p.hidden);
      }
      float part[kTiles][4] = {};
      DSV4_UNROLL
      for (int i = 0; i < kSteps; ++i) {
        DSV4_UNROLL
        for (int tile = 0; tile < kTiles; ++tile) {
          const Words x = *reinterpret_cast<const Words*>(stage + (tile * 8 + g) * kPitch + i * 32 + 8 * t);
          DSV4_UNROLL
          for (int j = 0; j < 4; j += 2) {
            const std::uint32_t a[4] = {now[i][0][j], now[i][1][j], now[i][0][j + 1], now[i][1][j + 1]};
            const std::uint32_t b[2] = {x[j], x[j + 1]};
            arch::mma_m16n8k16_bf16(part[tile], a, b, part[tile]);
          }
        }
      }
      DSV4_UNROLL
      for (int i = 0; i < kTiles * 4; ++i) total[i / 4][i % 4] += part[i / 4][i % 4];
    }

    DSV4_UNROLL
    for (int i = 0; i < kTiles * 4; ++i) {
      const std::int64_t token = first_token + i / 4 * 8 + 2 * t + i % 2, row = v + (i % 4 / 2) * 8;
      if (token < p.tokens && row < p.vocab)
        p.logits[token * p.logits_stride + row] =
            p.row(token) >= 0 ? total[i / 4][i % 4] : bits_as<float>(0x7fc00000u);
    }
  }

 private:
  static constexpr int kTiles = kTokens / 8;   // of 8 tokens
  static constexpr int kSteps = kChunk / 32;   // 32 channels: two products
  static constexpr int kVectors = kChunk / 8;  // of 16 bytes, in a token's chunk

  // 8 channels of a weight row at channel k + 32 i; zeros beyond its end and for rows that do not exist.
  DSV4_DEVICE static void load_weights(Words (&words)[kSteps][2], const bf16* const (&weight)[2],
                                       std::int64_t k, std::int64_t hidden) {
    // Up to 32 tokens are one tile: nobody else reads these weights.
    constexpr arch::Cache kCache = kTokens < 64 ? arch::Cache::kStreaming : arch::Cache::kDefault;
    DSV4_UNROLL
    for (int i = 0; i < kSteps; ++i) {
      DSV4_UNROLL
      for (int half = 0; half < 2; ++half) {
        words[i][half] = {};
        if (weight[half] && k + i * 32 < hidden)
          words[i][half] = arch::load<kCache>(reinterpret_cast<const Words*>(weight[half] + k + i * 32));
      }
    }
  }

  // The 16-byte pieces of the activations that a thread brings into shared memory, the same in every chunk.
  struct Loader {
    static constexpr int kPieces = (kTokens * kVectors + kThreads - 1) / kThreads;
    const bf16* source[kPieces];  // at channel 0 of the chunk; null = zeros

    DSV4_DEVICE Loader(const LogitsProblem& p, std::int64_t first_token) {
      DSV4_UNROLL
      for (int i = 0; i < kPieces; ++i) {
        const int piece = static_cast<int>(arch::thread_idx().x) + i * kThreads;
        const std::int64_t token = first_token + piece / kVectors;
        source[i] = nullptr;
        if (token >= p.tokens || piece / kVectors >= kTokens) continue;
        const std::int64_t row = p.row(token);
        if (row >= 0) source[i] = p.x + row * p.x_stride + piece % kVectors * 8;
      }
    }

    DSV4_DEVICE void issue(const LogitsProblem& p, std::int64_t channel, bf16* stage) const {
      DSV4_UNROLL
      for (int i = 0; i < kPieces; ++i) {
        const int piece = static_cast<int>(arch::thread_idx().x) + i * kThreads;
        if (piece / kVectors >= kTokens) continue;
        const bool exists = source[i] && channel + piece % kVectors * 8 < p.hidden;
        arch::cp_async<16>(stage + piece / kVectors * kPitch + piece % kVectors * 8,
                           exists ? source[i] + channel : p.x, exists ? 16 : 0);
      }
    }
  };
};

}  // namespace dsv4::lm_head::inline DSV4_FLAVOUR
