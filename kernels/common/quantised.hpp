// Checks of quantised outputs, and their way into kernels.
#pragma once

#include <dsv4/linear/lanes.cuh>
#include <dsv4/ops/quantised.hpp>

#include "kernels/common/dispatch.hpp"

#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

/// Scales of an op's output of `rows` rows of `blocks` blocks.
struct ScalesArgument {
  void* data;
  std::int64_t stride;  // 0 = contiguous
  ops::ScaleType type;
  ops::ScaleLayout layout;
};

/// Sizes and support. `what_*` are the messages, which name op and argument.
inline Status check_scales(const ScalesArgument& s, std::int64_t rows, std::int64_t blocks,
                           const char* what_type, const char* what_layout, const char* what_stride) {
  DSV4_REQUIRE(s.type == ops::ScaleType::kUe8m0 || s.type == ops::ScaleType::kF32,
               unsupported(what_type, static_cast<std::int64_t>(s.type)));
  DSV4_REQUIRE(s.layout == ops::ScaleLayout::kRowMajor || s.layout == ops::ScaleLayout::kColumnMajor,
               unsupported(what_layout, static_cast<std::int64_t>(s.layout)));
  const std::int64_t least = s.layout == ops::ScaleLayout::kRowMajor ? blocks : rows;
  DSV4_REQUIRE(stride_or(s.stride, least) >= least, invalid_argument(what_stride, s.stride, least));
  return {};
}

inline bool is_aligned_scale(const ScalesArgument& s) {
  return s.type == ops::ScaleType::kUe8m0 || is_aligned(s.data, sizeof(float));
}

inline linear::Scales scales_view(const ScalesArgument& s, std::int64_t rows, std::int64_t blocks) {
  const bool by_rows = s.layout == ops::ScaleLayout::kRowMajor;
  const std::int64_t stride = stride_or(s.stride, by_rows ? blocks : rows);
  return {s.data, by_rows ? stride : 1, by_rows ? 1 : stride, s.type == ops::ScaleType::kF32};
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
