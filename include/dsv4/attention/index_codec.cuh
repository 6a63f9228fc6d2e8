// Indexer queries and keys of every stored format as operands of bf16 tensor cores: exact, in registers.
//
// A thread converts eight neighbouring channels at a time into four registers of two bf16. Two products of 16
// channels take them; which of the eight channels lies where in the registers is each format's own choice,
// channel_at, because a sum over channels may be taken in any order that both operands share.
//
// fp32 and bf16 have the same exponents, and a code times its power of two has few bits: what is exact in
// fp32 (kv_cache.hpp's read) is exact in bf16, for every scale byte.
#pragma once

#include <dsv4/arch/arithmetic.cuh>
#include <dsv4/arch/config.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/arch/warp.cuh>
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/core/types.hpp>

#include <cstdint>

namespace dsv4::attention::inline DSV4_FLAVOUR {

/// Eight channels: register r holds channels channel_at(2r) (low half) and channel_at(2r + 1) of its format.
using Channels = std::uint32_t[4];

inline constexpr int kIndexDim = 128;  // channels of a query head and of a key

// ---- e2m1 -----------------------------------------------------------------------------------------------

struct Fp4Channels {
  DSV4_HD static constexpr int channel_at(int p) { return p / 2 + p % 2 * 4; }

  /// code * scale of the eight nibbles of `word`, where the two factors are those of scale_factors().
  ///
  /// A nibble seem shifted to s000000eem000000 is a bf16: the code times 2^-126, subnormal codes included.
  /// Two shifts of the nibble at once (one product with 2^6 + 2^12, no carries), a mask and a product with
  /// the scale convert two nibbles that lie 16 bits apart.
  DSV4_DEVICE static void decode(Channels& out, std::uint32_t word, std::uint32_t factor) {
    const std::uint32_t upper = word >> 8;
    out[0] = ((word & 0x000f000fu) * 0x1040u) & 0x81c081c0u;
    out[1] = ((word & 0x00f000f0u) * 0x0104u) & 0x81c081c0u;
    out[2] = ((upper & 0x000f000fu) * 0x1040u) & 0x81c081c0u;
    out[3] = ((upper & 0x00f000f0u) * 0x0104u) & 0x81c081c0u;
    multiply(out, factor);
  }
  DSV4_DEVICE static void multiply(Channels& out, std::uint32_t factor) {
    DSV4_UNROLL
    for (int i = 0; i < 4; ++i) out[i] = arch::mul_bf16x2(out[i], factor);
  }

  /// 2^126 * scale as one bf16, twice, as far as that is finite: large_scale_factor() is the rest. Both
  /// products are exact or overflow as code * scale does.
  DSV4_DEVICE static std::uint32_t scale_factor(std::uint32_t scale) {
    const std::uint32_t bits = scale < kLargeScale ? (scale + 126) << 7 : 0x7f00u;  // at most 2^127
    return (scale == kE8m0Nan ? 0x7fc0u : bits) * 0x10001u;
  }
  static constexpr std::uint32_t kLargeScale = 129;  // scales from 2^2 on need two products
  DSV4_DEVICE static std::uint32_t large_scale_factor(std::uint32_t scale) {
    return (scale < kLargeScale ? 0x3f80u : (scale - 1) << 7) * 0x10001u;
  }
};

// ---- e4m3 -----------------------------------------------------------------------------------------------

struct Fp8Channels {
  DSV4_HD static constexpr int channel_at(int p) { return p / 4 * 4 + p % 4 / 2 + p % 2 * 2; }

  /// The eight codes of two words. A NaN code makes one of the channels a NaN, and so every sum over them.
  ///
  /// A code seeeemmm shifted to s0000eeeemmm0000 is a bf16: the code times 2^-120, except that NaN gives 480.
  DSV4_DEVICE static void decode(Channels& out, std::uint32_t low, std::uint32_t high) {
    constexpr std::uint32_t kFactor = 0x7b807b80u;  // 2^120, twice
    const std::uint32_t words[2] = {low, high};
    std::uint32_t nan = 0;
    DSV4_UNROLL
    for (int w = 0; w < 2; ++w) {
      const std::uint32_t word = words[w];
      out[2 * w] = arch::mul_bf16x2(((word << 4) & 0x07f007f0u) | ((word << 8) & 0x80008000u), kFactor);
      out[2 * w + 1] = arch::mul_bf16x2(((word >> 4) & 0x07f007f0u) | (word & 0x80008000u), kFactor);
      nan |= (word & 0x7f7f7f7fu) + 0x01010101u;  // carries into bit 7 of each byte that is 0x7f
    }
    if ((nan & 0x80808080u) != 0) out[0] = 0x7fc07fc0u;
  }
};

// ---- bf16 -----------------------------------------------------------------------------------------------

struct Bf16Channels {
  DSV4_HD static constexpr int channel_at(int p) { return p; }
};

/// The same eight channels in another format's order.
template <class From, class To>
DSV4_DEVICE void reorder(Channels& out, const Channels& in) {
  DSV4_UNROLL
  for (int r = 0; r < 4; ++r) {
    std::uint32_t half[2] = {};
    DSV4_UNROLL
    for (int i = 0; i < 2; ++i) {
      DSV4_UNROLL
      for (int p = 0; p < 8; ++p)
        if (From::channel_at(p) == To::channel_at(2 * r + i)) half[i] = in[p / 2] >> (p % 2 * 16) & 0xffffu;
    }
    out[r] = half[0] | half[1] << 16;
  }
}

// ---- Queries: [rows] heads of kIndexDim channels, contiguous, 16-byte aligned ----------------------------
// load(out, row, channel): channels channel .. channel + 7 of a row, channel a multiple of 8.

struct Fp4Queries : Fp4Channels {
  const std::uint8_t* codes;   // [rows, 64]
  const std::uint8_t* scales;  // [rows, 4] UE8M0

  DSV4_DEVICE Fp4Queries(const void* q, const void* s)
      : codes(static_cast<const std::uint8_t*>(q)), scales(static_cast<const std::uint8_t*>(s)) {}
  DSV4_DEVICE void load(Channels& out, std::int64_t row, int channel) const {
    const std::uint32_t word =
        arch::load(reinterpret_cast<const std::uint32_t*>(codes + row * (kIndexDim / 2) + channel / 2));
    const std::uint32_t scale = arch::load(scales + row * 4 + channel / 32);
    decode(out, word, scale_factor(scale));
    multiply(out, large_scale_factor(scale));
  }
};

struct Fp8Queries : Fp8Channels {
  const std::uint8_t* codes;  // [rows, 128]; scales are in the head weights

  DSV4_DEVICE Fp8Queries(const void* q, const void*) : codes(static_cast<const std::uint8_t*>(q)) {}
  DSV4_DEVICE void load(Channels& out, std::int64_t row, int channel) const {
    using Words = arch::Vec<std::uint32_t, 2>;
    const Words words = arch::load(reinterpret_cast<const Words*>(codes + row * kIndexDim + channel));
    decode(out, words[0], words[1]);
  }
};

struct Bf16Queries : Bf16Channels {
  const bf16* rows;

  DSV4_DEVICE Bf16Queries(const void* q, const void*) : rows(static_cast<const bf16*>(q)) {}
  DSV4_DEVICE void load(Channels& out, std::int64_t row, int channel) const {
    using Words = arch::Vec<std::uint32_t, 4>;
    const Words words = arch::load(reinterpret_cast<const Words*>(rows + row * kIndexDim + channel));
    DSV4_UNROLL
    for (int i = 0; i < 4; ++i) out[i] = words[i];
  }
};

// ---- Keys -----------------------------------------------------------------------------------------------

/// Row `row` of page `page` of a pool whose rows exist; page -1 is none. Plain rows are pages of one.
struct KeyPlace {
  std::int32_t page = -1;
  std::int32_t row = 0;
};

template <class Pool>
DSV4_DEVICE const std::uint8_t* page_data(const Pool& pool, KeyPlace place) {
  return pool.pages + place.page * pool.page_stride + std::int64_t{place.row} * Pool::kDataBytes;
}
template <class Pool>
DSV4_DEVICE const std::uint8_t* page_scales(const Pool& pool, KeyPlace place) {
  const std::uint8_t* scales = pool.scales_or_null ? pool.scales_or_null + place.page * pool.scales_stride
                                                   : pool.pages + place.page * pool.page_stride +
                                                         std::int64_t{pool.page_entries} * Pool::kDataBytes;
  return scales + std::int64_t{place.row} * Pool::kScaleBytes;
}

/// How four threads read a key: thread t has the 16-byte pieces t, t + 4, ... of its data, which hold the
/// eight channels from channel(t, 0), from channel(t, 1), ... channel(t, 3).
///   kAhead       keys in flight a thread, of the four that it has of each 32: as many as registers allow
///   kAtOnce      keys multiplied side by side, at most kAhead
///   Raw          what a thread holds of a key in flight
///   load(...)    reads it; one lane's
///   Decoder      made of kKeys of them by all lanes of the warp; get(out, k, u): key k's from channel(t, u)
///   factor(...)  what the key's finished score is multiplied by
template <class Pool>
struct KeyReader;

template <>
struct KeyReader<IndexFp4Pool> {
  using Order = Fp4Channels;
  static constexpr bool kPaged = true;
  static constexpr int kAhead = 4, kAtOnce = 2;
  struct Raw {
    arch::Vec<std::uint32_t, 4> words = {};
    std::uint32_t scale = 0;
  };

  DSV4_DEVICE static constexpr int channel(int t, int u) { return 32 * t + 8 * u; }
  DSV4_DEVICE static Raw load(const IndexFp4Pool& pool, KeyPlace place, int t) {
    const auto* data = reinterpret_cast<const arch::Vec<std::uint32_t, 4>*>(page_data(pool, place));
    return {arch::load(data + t), arch::load(page_scales(pool, place) + t)};
  }
  DSV4_DEVICE static float factor(const IndexFp4Pool&, KeyPlace) { return 1.0f; }

  template <int kKeys>
  struct Decoder {
    const Raw (&raw)[kKeys];
    std::uint32_t scale_factor[kKeys];
    bool large;  // some lane's scale needs a second product; rare

    DSV4_DEVICE explicit Decoder(const Raw (&r)[kKeys]) : raw(r) {
      std::uint32_t largest = 0;
      DSV4_UNROLL
      for (int k = 0; k < kKeys; ++k) {
        scale_factor[k] = Order::scale_factor(r[k].scale);
        largest = r[k].scale > largest ? r[k].scale : largest;
      }
      large = arch::any(largest >= Order::kLargeScale);
    }
    DSV4_DEVICE void get(Channels& out, int k, int u) const {
      Order::decode(out, raw[k].words[u], scale_factor[k]);
      if (large) Order::multiply(out, Order::large_scale_factor(raw[k].scale));
    }
  };
};

template <>
struct KeyReader<IndexFp8Pool> {
  using Order = Fp8Channels;
  static constexpr bool kPaged = true;
  static constexpr int kAhead = 2, kAtOnce = 2;
  struct Raw {
    arch::Vec<std::uint32_t, 4> words[2] = {};
  };

  DSV4_DEVICE static constexpr int channel(int t, int u) { return 64 * (u / 2) + 16 * t + 8 * (u % 2); }
  DSV4_DEVICE static Raw load(const IndexFp8Pool& pool, KeyPlace place, int t) {
    const auto* data = reinterpret_cast<const arch::Vec<std::uint32_t, 4>*>(page_data(pool, place));
    return {{arch::load(data + t), arch::load(data + 4 + t)}};
  }
  DSV4_DEVICE static float factor(const IndexFp8Pool& pool, KeyPlace place) {
    return arch::load(reinterpret_cast<const float*>(page_scales(pool, place)));
  }

  template <int kKeys>
  struct Decoder {
    const Raw (&raw)[kKeys];

    DSV4_DEVICE explicit Decoder(const Raw (&r)[kKeys]) : raw(r) {}
    DSV4_DEVICE void get(Channels& out, int k, int u) const {
      Order::decode(out, raw[k].words[u / 2][u % 2 * 2], raw[k].words[u / 2][u % 2 * 2 + 1]);
    }
  };
};

// 16 registers a key leave no room to hold it before it is needed: it is brought into L2, and read then.
template <>
struct KeyReader<RowPool<bf16>> {
  using Order = Bf16Channels;
  using Words = arch::Vec<std::uint32_t, 4>;
  static constexpr bool kPaged = false;
  static constexpr int kAhead = 4, kAtOnce = 2;
  struct Raw {
    const Words* data = nullptr;
  };

  DSV4_DEVICE static constexpr int channel(int t, int u) { return 32 * u + 8 * t; }
  DSV4_DEVICE static Raw load(const RowPool<bf16>& pool, KeyPlace place, int t) {
    const auto* data = reinterpret_cast<const Words*>(pool.data + std::int64_t{place.page} * pool.stride);
    arch::prefetch_l2(data + 4 * t);  // a row, aligned to 16 bytes, may lie in three lines
    return {data + t};
  }
  DSV4_DEVICE static float factor(const RowPool<bf16>&, KeyPlace) { return 1.0f; }

  template <int kKeys>
  struct Decoder {
    const Raw (&raw)[kKeys];

    DSV4_DEVICE explicit Decoder(const Raw (&r)[kKeys]) : raw(r) {}
    DSV4_DEVICE void get(Channels& out, int k, int u) const {
      const Words words = raw[k].data ? arch::load(raw[k].data + 4 * u) : Words{};
      DSV4_UNROLL
      for (int i = 0; i < 4; ++i) out[i] = words[i];
    }
  };
};

}  // namespace dsv4::attention::inline DSV4_FLAVOUR
