// RMSNorm of a row in one pass over memory, with its FP8 codes.
#pragma once

#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/core/norm.hpp>
#include <dsv4/linear/lanes.cuh>

#include <cstdint>

namespace dsv4::linear::inline DSV4_FLAVOUR {

/// One row of RMSNorm: inputs, and the outputs that are wanted.
template <class T>
struct NormRow {
  T* out_or_null;       // [n]; may be x
  e4m3* codes_or_null;  // [n]
  Scales scales;        // of 128 channels, for codes
  std::int64_t row;     // where its scales go
  const T* x;           // [n]
  const float* weight_or_null;
  int n;
  float eps;
};

/// How a row is kept between its two readings.
enum class Staging {
  kVector,    // shared memory by 16-byte cp.async: every address and n are multiples of kVectorOf<T>
  kElements,  // shared memory, value by value
  kNone,      // read twice: for rows that shared memory does not hold
};

/// out = round_T(weight * x * inverse_rms(x)); codes and scales of out as quant::fp8_block over 128 channels.
///   staged  [n] T, 16-byte aligned shared memory of the group; unused with kNone
/// Bit for bit rms_norm, then fp8_block: the sum is canonical whatever the layout of the loads. Called by all
/// threads of `coop`, whole warps; synchronises.
template <Staging kStaging, Coop C, class T>
DSV4_DEVICE void rms_norm_row(C coop, const NormRow<T>& r, T* staged) {
  constexpr bool kVector = kStaging == Staging::kVector;
  constexpr int kN = kVectorOf<T>;
  if constexpr (kVector) {
    for (int i = coop.rank() * kN; i < r.n; i += coop.size() * kN) arch::cp_async<16>(staged + i, r.x + i);
    arch::cp_async_wait_all();
  } else if constexpr (kStaging == Staging::kElements) {
    for (int i = coop.rank(); i < r.n; i += coop.size()) staged[i] = r.x[i];
  }
  coop.sync();
  const T* x = kStaging == Staging::kNone ? r.x : staged;
  const float rho = inverse_rms(coop, x, r.n, r.eps);
  if constexpr (kStaging == Staging::kNone) coop.sync();  // in place: others may still be summing
  // The same number of rounds for every lane: a block's lanes find its maximum together.
  for (std::int64_t begin = 0; begin < r.n; begin += coop.size() * kN) {
    const std::int64_t i = begin + coop.rank() * kN, count = r.n - i;
    float v[kN], w[kN];
    load_values<kVector, kStaging == Staging::kNone ? Memory::kGlobal : Memory::kShared>(v, x + i, count);
    if (r.weight_or_null) {
      if constexpr (kVector) {
        constexpr int kW = kVectorOf<float>;
        DSV4_UNROLL
        for (int part = 0; part < kN; part += kW) {
          float four[kW];
          load_values<true>(four, r.weight_or_null + i + part, count);
          DSV4_UNROLL
          for (int j = 0; j < kW; ++j) w[part + j] = four[j];
        }
      } else {
        load_values<false>(w, r.weight_or_null + i, count);
      }
    }
    DSV4_UNROLL
    for (int j = 0; j < kN; ++j) {
      const float normed = v[j] * rho;
      // Beyond the end this is 0, or NaN where rho is not finite, as is then every value of the block.
      v[j] = r.weight_or_null ? w[j] * normed : normed;
    }
    const arch::Vec<T, kN> y = rounded<T>(v);
    if (r.out_or_null) store_values<kVector>(r.out_or_null + i, y, count);
    if (r.codes_or_null) {
      DSV4_UNROLL
      for (int j = 0; j < kN; ++j) v[j] = to_float(y[j]);  // the rounded value is quantised
      arch::Vec<e4m3, kN> codes;
      const e8m0 s = fp8_codes<quant::kFp8LinearBlock>(codes, v);
      store_values<kVector>(r.codes_or_null + i, codes, count);
      if (i % quant::kFp8LinearBlock == 0 && count > 0) r.scales.put(r.row, i / quant::kFp8LinearBlock, s);
    }
  }
}

}  // namespace dsv4::linear::inline DSV4_FLAVOUR
