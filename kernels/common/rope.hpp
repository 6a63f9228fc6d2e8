// Angles and positions of ops that rotate: their checks, and their way into kernels.
#pragma once

#include <dsv4/linear/angles.cuh>
#include <dsv4/ops/rope.hpp>

#include "kernels/common/checks.hpp"

#include <cstdint>

namespace dsv4::kernels::inline DSV4_FLAVOUR {

/// The width that is compiled: a pair for each lane of a warp.
inline constexpr int kRopeDim = 64;

inline linear::Positions positions(const void* data, ops::PositionType type) {
  return {data, type == ops::PositionType::kInt64};
}
inline linear::Angles angles(const ops::RopeTable& t) {
  return {t.freq, t.cos, t.sin, t.max_position, stride_or(t.table_stride, kRopeDim / 2)};
}

/// Sizes and support. kIn is what the names of `rope_dim` and `position_type` start with in messages: "" or
/// the member they lie in; kTable names the table.
template <Text kIn, Text kTable, class C>
void check_rope_sizes(C& checks, const ops::RopeTable& table, std::int32_t rope_dim, ops::PositionType type) {
  checks.template require<kIn + Text("rope_dim"), "must be 64: no other is compiled">(
      rope_dim == kRopeDim, rope_dim, kRopeDim, Code::kUnsupported);
  checks.template require<kIn + Text("position_type"), "must be int32 or int64">(
      type == ops::PositionType::kInt32 || type == ops::PositionType::kInt64, static_cast<std::int64_t>(type),
      0, Code::kUnsupported);
  checks.template stride<kTable + Text(".table_stride")>(table.table_stride, kRopeDim / 2);
}

/// Pointers of an op that has tokens.
template <Text kIn, Text kTable, class C>
void check_rope_pointers(C& checks, const ops::RopeTable& table, const void* positions,
                         ops::PositionType type) {
  checks.template pointer<kIn + Text("positions")>(positions, type == ops::PositionType::kInt64 ? 8 : 4);
  checks.template require<kTable, "must give either freq or both of cos and sin">(
      table.freq ? !table.cos && !table.sin : table.cos && table.sin);
  checks.template require<kTable + Text(".max_position"), "must be at least 1 with cos and sin">(
      table.freq || table.max_position >= 1, table.max_position, 1);
  checks.template optional<kTable + Text(".freq")>(table.freq, alignof(float));
  checks.template optional<kTable + Text(".cos")>(table.cos, alignof(float));
  checks.template optional<kTable + Text(".sin")>(table.sin, alignof(float));
}

}  // namespace dsv4::kernels::inline DSV4_FLAVOUR
