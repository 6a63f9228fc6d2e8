// From rows in registers to the bytes of cached entries (kv_cache.hpp), in the primitives' bits, and back.
#pragma once

#include <dsv4/arch/config.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/attention/rows.cuh>
#include <dsv4/core/quant.hpp>
#include <dsv4/linear/lanes.cuh>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

/// One 584-byte entry in the registers of a warp, channels as in Row<T, 512>.
template <class T>
struct KvEntry {
  using R = Row<T, KvPagePool::kQuantised + KvPagePool::kRotated>;

  arch::Vec<e4m3, R::kN> codes[R::kParts];
  arch::Vec<bf16, R::kN> rotated;  // of the last part
  e8m0 scales[R::kParts];          // of the block of the lane's channels

  /// Whether a lane's channels of a part are the rotated ones.
  DSV4_DEVICE static bool is_rotated(int p) {
    return p == R::kParts - 1 && R::channel(p) >= KvPagePool::kQuantised;
  }

  /// Bit for bit KvPagePool::write's bytes. All lanes of the warp call.
  DSV4_DEVICE static KvEntry of(const R& row) {
    KvEntry e;
    float v[R::kN];
    DSV4_UNROLL
    for (int p = 0; p < R::kParts; ++p) {
      row.values(v, p);
      e.scales[p] = linear::fp8_codes<quant::kFp8KvBlock>(e.codes[p], v);
    }
    e.rotated = linear::rounded<bf16>(v);
    return e;
  }

  /// Stores the entry, its pad byte 0. All lanes of the warp call.
  DSV4_DEVICE void store(const KvPagePool& pool, std::int64_t slot) const {
    std::uint8_t* data = pool.data_of(slot);
    std::uint32_t words[2] = {};  // the scales of blocks 0..3 and 4..6
    DSV4_UNROLL
    for (int p = 0; p < R::kParts; ++p) {
      const int d = R::channel(p);
      if (is_rotated(p)) {
        arch::store(reinterpret_cast<arch::Vec<bf16, R::kN>*>(data + 2 * d - KvPagePool::kQuantised),
                    rotated);
      } else {
        arch::store(reinterpret_cast<arch::Vec<e4m3, R::kN>*>(data + d), codes[p]);
        words[p * 2 / R::kParts] |= std::uint32_t{scales[p].bits} << (d / quant::kFp8KvBlock % 4 * 8);
      }
    }
    const arch::Vec<std::uint32_t, 2> all = {{arch::reduce_or(words[0]), arch::reduce_or(words[1])}};
    if (arch::lane_id() == 0)
      arch::store(reinterpret_cast<arch::Vec<std::uint32_t, 2>*>(pool.scales_of(slot)), all);
  }

  /// The row as the cache gives it back. One lane's channels.
  DSV4_DEVICE R decoded() const {
    R row;
    DSV4_UNROLL
    for (int p = 0; p < R::kParts; ++p) {
      const float scale = to_float(scales[p]);
      DSV4_UNROLL
      for (int i = 0; i < R::kN; ++i)
        row.part[p][i] = from_float<T>(is_rotated(p) ? to_float(rotated[i]) : to_float(codes[p][i]) * scale);
    }
    return row;
  }
};

/// FP4 codes of every row of the warp and its 4 scales, bit for bit IndexFp4Pool::write.
///   codes   64 bytes, 8-byte aligned
///   scales  4 bytes, block 0 in the lowest
/// `wanted`: whether the caller's row is stored. All lanes of the warp call.
template <class T>
DSV4_DEVICE void store_index_fp4(void* codes, void* scales, const Row<T, IndexFp4Pool::kChannels>& row,
                                 bool wanted) {
  using R = Row<T, IndexFp4Pool::kChannels>;
  float v[R::kN];
  row.values(v, 0);
  arch::Vec<e2m1x2, R::kN / 2> code;
  const e8m0 scale = linear::fp4_codes<quant::kFp4Block>(code, v);
  std::uint32_t word = std::uint32_t{scale.bits} << (R::channel(0) / quant::kFp4Block * 8);
  DSV4_UNROLL
  for (int distance = quant::kFp4Block / R::kN; distance < R::kLanes; distance *= 2)
    word |= arch::shfl_xor(word, distance);
  if (!wanted) return;
  arch::store(reinterpret_cast<arch::Vec<e2m1x2, R::kN / 2>*>(codes) + arch::lane_id() % R::kLanes, code);
  if (R::channel(0) == 0) arch::store(static_cast<std::uint32_t*>(scales), word);
}

/// FP8 codes of every row of the warp, bit for bit IndexFp8Pool::write's. Returns the scale, a power of two
/// or NaN, which the caller stores or folds into something else.
///   codes  128 bytes, 8-byte aligned
/// `wanted`: whether the caller's row is stored. All lanes of the warp call.
template <class T>
DSV4_DEVICE float store_index_fp8(void* codes, const Row<T, IndexFp8Pool::kChannels>& row, bool wanted) {
  using R = Row<T, IndexFp8Pool::kChannels>;
  float v[R::kN];
  row.values(v, 0);
  arch::Vec<e4m3, R::kN> code;
  const e8m0 scale = linear::fp8_codes<IndexFp8Pool::kChannels>(code, v);
  if (wanted)
    arch::store(reinterpret_cast<arch::Vec<e4m3, R::kN>*>(codes) + arch::lane_id() % R::kLanes, code);
  return to_float(scale);
}

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
