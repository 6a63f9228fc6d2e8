// nvcc compiles this file as it is; g++ or clang as C++ (-x c++ -DDSV4_SIMT_EMULATION) for the SIMT machine.
#include "examples/03_own_kernel/gated_attention.hpp"

#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/attention/attend_tile.cuh>
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/core/math.hpp>

namespace mine::inline DSV4_FLAVOUR {
namespace {

using namespace dsv4;

// 16 heads a block, all rows of 584 bytes. AttendTile loads the rows, scores them, and adds up the values on
// tensor cores; it takes the two things that follow from its user.
using Tile = attention::AttendTile<16, true>;

// Which rows a token attends to, by their place in its list.
struct SlotList {
  const std::int32_t* slots;
  int count;
  attention::KvPagePool pool;

  DSV4_DEVICE int groups() const { return (count + attention::kAttendGroup - 1) / attention::kAttendGroup; }
  DSV4_DEVICE int steps(int group) const {
    const int left = count - group * attention::kAttendGroup;
    const int rows = left < attention::kAttendGroup ? left : attention::kAttendGroup;
    return (rows + attention::kAttendStep - 1) / attention::kAttendStep;
  }
  DSV4_DEVICE bool packed(int) const { return true; }
  DSV4_DEVICE attention::AttendRow row(int i) const {
    if (i >= count || slots[i] < 0) return {};
    return {pool.data_of(slots[i]), pool.scales_of(slots[i])};
  }
};

// The epilogue. A warp holds a head's 512 values, rounded to bf16; here they are gated on their way, and what
// AttendOutput can do comes after that: FP8 codes, as used here, or inverse RoPE and bf16.
struct GatedOutput : attention::AttendOutput {
  const float* gate;
  int heads;

  template <class T>
  DSV4_DEVICE void put(std::int64_t token, int head, attention::Octet<T> (&v)[2],
                       const math::SinCos* angles) const {
    const float g = math::sigmoid(gate[token * heads + head]);
    DSV4_UNROLL
    for (int i = 0; i < 16; ++i) v[i / 8][i % 8] = from_float<T>(g * to_float(v[i / 8][i % 8]));
    AttendOutput::put(token, head, v, angles);
  }
};

struct NoAngles {
  DSV4_DEVICE math::SinCos operator()(int) const { return {}; }  // not called: nothing is rotated back
};

DSV4_KERNEL_RESIDENT(Tile::kThreads, 1)
gated_attention_kernel(const DSV4_GRID_CONSTANT attention::AttendQueries queries,
                       const DSV4_GRID_CONSTANT GatedOutput out, const DSV4_GRID_CONSTANT SlotList lists,
                       int ring) {
  DSV4_DYN_SMEM(std::uint8_t, shared);
  const unsigned tiles = (static_cast<unsigned>(queries.heads) + Tile::kHeads - 1) / Tile::kHeads;
  const std::int64_t token = arch::block_idx().x / tiles;
  const int tile = static_cast<int>(arch::block_idx().x % tiles);
  SlotList list = lists;
  list.slots += token * list.count;
  Tile::run(queries, out, token, tile * Tile::kHeads, list, NoAngles{}, ring, shared);
}

}  // namespace

Status gated_attention(const GatedAttention& p, Stream stream) noexcept {
  DSV4_REQUIRE(p.heads >= 1 && p.tokens >= 1 && p.rows >= 0,
               invalid_argument("gated_attention: tokens and heads must be at least 1, rows 0"));
  std::int64_t limit = 0;
  if (const Status s = arch::max_shared_bytes(limit); !s.ok()) return s;
  const int ring = Tile::ring_rows(limit), tiles = (p.heads + Tile::kHeads - 1) / Tile::kHeads;
  const std::int64_t width = std::int64_t{p.heads} * attention::AttendOutput::kChannels;
  const attention::AttendOutput out = {
      .codes_or_null = p.codes, .codes_stride = width, .scales = {p.scales, width / 128, 1, false}};
  const attention::KvPagePool pool = {p.pages, std::int64_t{p.page_rows} * 584, p.page_rows, INT32_MAX};
  return arch::launch("gated_attention", gated_attention_kernel,
                      {.grid = {static_cast<unsigned>(p.tokens * tiles), 1, 1},
                       .block = {Tile::kThreads, 1, 1},
                       .shared_bytes = static_cast<std::size_t>(Tile::shared_bytes(ring))},
                      stream,
                      attention::AttendQueries{p.q, width, attention::AttendOutput::kChannels, p.heads,
                                               0.04419417382f},  // 512^-0.5
                      GatedOutput{out, p.gate, p.heads}, SlotList{p.slots, p.rows, pool}, ring);
}

}  // namespace mine::inline DSV4_FLAVOUR
