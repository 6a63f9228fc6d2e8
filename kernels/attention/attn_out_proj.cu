// Op attn_out_proj: the heads turned back, then Wo_a by groups as the matrices of one linear_multi, then
// Wo_b.
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/attention/rows.cuh>
#include <dsv4/core/workspace.hpp>
#include <dsv4/linear/angles.cuh>
#include <dsv4/linear/fp8.hpp>
#include <dsv4/ops/attn_out_proj.hpp>

#include "kernels/common/checks.hpp"
#include "kernels/common/nan_guard.hpp"
#include "kernels/common/rope.hpp"

#include <algorithm>
#include <cstdint>

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

using namespace kernels;

constexpr int kHeadDim = 512;
constexpr int kMaxHeads = 128;
constexpr std::int64_t kMaxHidden = 1 << 20;
constexpr int kWarps = 4;
constexpr int kHeads = 2;  // of a warp, in flight together

template <class T>
struct RotateBack {
  T* out;      // [tokens, heads, 512]
  const T* o;  // [tokens] rows of o_stride
  linear::Positions positions;
  linear::Angles angles;
  std::int64_t o_stride;
  int heads;
};

// Block (slice of kWarps * kHeads heads, token).
template <class T>
DSV4_KERNEL(kWarps* arch::kWarpThreads)
rotate_back_kernel(const DSV4_GRID_CONSTANT RotateBack<T> a, int slices) {
  const std::int64_t token = arch::block_idx().x / static_cast<unsigned>(slices);
  const int slice = static_cast<int>(arch::block_idx().x % static_cast<unsigned>(slices));
  const int head = (slice * kWarps + arch::warp_id()) * kHeads;
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  if (head >= a.heads) return;
  attention::Row<T, kHeadDim> rows[kHeads];
  const T* o = a.o + token * a.o_stride + head * kHeadDim;
  DSV4_UNROLL
  for (int h = 0; h < kHeads; ++h) rows[h].load(o + h * kHeadDim, head + h < a.heads);
  const math::SinCos angle = a.angles(a.positions[token], arch::lane_id());
  T* out = a.out + (token * a.heads + head) * kHeadDim;
  DSV4_UNROLL
  for (int h = 0; h < kHeads; ++h) {
    if (head + h >= a.heads) break;
    attention::rotate(rows[h], angle, rope::Direction::kInverse);
    rows[h].store(out + h * kHeadDim);
  }
}

std::int64_t element_bytes(DType dtype) { return dtype == DType::kF32 ? 4 : 2; }
DType y_type(const AttnOutProjParams& p) { return p.y_f32 ? DType::kF32 : p.dtype; }

/// Parts of the workspace. What the two products need themselves comes last, and they share it.
struct Parts {
  void* rotated = nullptr;  // [tokens, heads * 512] dtype; null where o is turned back already
  void* z = nullptr;        // [tokens, groups * rank] dtype
  void* products = nullptr;
  std::size_t products_bytes = 0;
};

// Wo_a: a matrix a group, each with its channels of o.
LinearMultiParams wo_a_params(const AttnOutProjParams& p, const Parts& w) {
  const std::int64_t k = std::int64_t{p.heads} * p.head_dim / std::max(p.groups, 1);
  LinearMultiParams m = {
      .count = p.groups,
      .input = {.x = p.rotate_back ? w.rotated : p.o,
                .x_stride = p.rotate_back ? std::int64_t{p.heads} * p.head_dim
                                          : stride_or(p.o_stride, std::int64_t{p.heads} * p.head_dim)},
      .tokens = p.tokens,
      .k = k,
      .dtype = p.dtype,
      .workspace = w.products,
      .workspace_bytes = w.products_bytes};
  const std::int64_t stride = stride_or(p.wo_a.stride, k);
  const std::int64_t bytes = p.wo_a.format == WeightFormat::kFp8    ? 1
                             : p.wo_a.format == WeightFormat::kBf16 ? 2
                                                                    : 4;
  for (int g = 0; g < std::clamp(p.groups, 0, kMaxLinearParts); ++g) {
    const std::int64_t row = std::int64_t{g} * p.rank;
    LinearPart& part = m.parts[g];
    if (w.z) {
      part.y = static_cast<std::byte*>(w.z) + row * element_bytes(p.dtype);
      part.weight.data = static_cast<const std::byte*>(p.wo_a.data) + row * stride * bytes;
      part.weight.scales = p.wo_a.scales;
    }
    part.weight.format = p.wo_a.format;
    part.weight.stride = stride;
    part.weight.scales_stride = p.wo_a.scales_stride;
    part.weight.scales_row = p.wo_a.scales_row + row;
    part.n = p.rank;
    part.x_column = g * k;
    part.y_stride = std::int64_t{p.groups} * p.rank;
    part.y_type = p.dtype;
  }
  return m;
}

LinearMultiParams wo_b_params(const AttnOutProjParams& p, const Parts& w) {
  LinearMultiParams m = {.count = 1,
                         .input = {.x = w.z},
                         .tokens = p.tokens,
                         .k = std::int64_t{p.groups} * p.rank,
                         .dtype = p.dtype,
                         .workspace = w.products,
                         .workspace_bytes = w.products_bytes};
  m.parts[0] = {.y = p.y,
                .weight = p.wo_b,
                .n = p.hidden,
                .y_stride = p.y_stride,
                .y_type = y_type(p),
                .quantise = p.wo_b.format == WeightFormat::kFp8};
  return m;
}

// The walk over the workspace. Sizes out of range count as the nearest in range.
Parts take_parts(Workspace& workspace, const AttnOutProjParams& p) {
  const auto take = [&](std::int64_t n) -> void* {
    return p.dtype == DType::kF32 ? static_cast<void*>(workspace.take<float>(n))
                                  : static_cast<void*>(workspace.take<bf16>(n));
  };
  const std::int64_t tokens = std::clamp<std::int64_t>(p.tokens, 0, INT32_MAX);
  const std::int64_t channels = std::int64_t{std::clamp(p.heads, 0, kMaxHeads)} * kHeadDim;
  const std::int64_t k = std::int64_t{std::clamp(p.groups, 0, kMaxLinearParts)} * std::max(p.rank, 0);
  Parts parts;
  if (p.rotate_back) parts.rotated = take(tokens * channels);
  parts.z = take(tokens * k);
  parts.products_bytes = linear_multi_workspace_bytes(wo_b_params(p, {}));  // Wo_a's needs none
  parts.products = workspace.take<std::byte>(static_cast<std::int64_t>(parts.products_bytes));
  return parts;
}

using OutProjChecks = Checks<"attn_out_proj">;

template <Text kArgument>
void check_weight(OutProjChecks& c, const LinearWeight& w, std::int64_t k, DType dtype) {
  const bool f32 = dtype == DType::kF32;
  c.require<kArgument + Text(".format"), "has no instance for these activations">(
      w.format == WeightFormat::kBf16 || w.format == WeightFormat::kFp8 ||
          (w.format == WeightFormat::kF32 && f32),
      static_cast<std::int64_t>(w.format), 0, Code::kUnsupported);
  const std::int64_t vector = f32 ? 1 : w.format == WeightFormat::kFp8 ? 16 : 8;
  c.stride<kArgument + Text(".stride")>(w.stride, k, vector);
  if (w.format == WeightFormat::kFp8) {
    c.stride<kArgument + Text(".scales_stride")>(w.scales_stride,
                                                 (k + linear::kFp8Tile - 1) / linear::kFp8Tile);
    c.require<kArgument + Text(".scales_row"), "must be a multiple of 16, 0 or more">(
        w.scales_row >= 0 && (f32 || w.scales_row % 16 == 0), w.scales_row, 16);
  }
}

template <Text kArgument>
void check_weight_pointers(OutProjChecks& c, const LinearWeight& w, DType dtype) {
  const std::size_t own = w.format == WeightFormat::kF32 ? 4 : w.format == WeightFormat::kBf16 ? 2 : 1;
  c.pointer<kArgument + Text(".data")>(w.data, dtype == DType::kF32 ? own : 16);
  if (w.format == WeightFormat::kFp8) c.pointer<kArgument + Text(".scales")>(w.scales, 1);
}

void check_sizes(OutProjChecks& c, const AttnOutProjParams& p) {
  c.require<"tokens", "must be in [0, 2^31)">(p.tokens >= 0 && p.tokens <= INT32_MAX, p.tokens, INT32_MAX);
  c.require<"hidden", "must be in [1, 2^20]">(p.hidden >= 1 && p.hidden <= kMaxHidden, p.hidden, kMaxHidden);
  c.require<"groups", "must be in [1, 16]">(p.groups >= 1 && p.groups <= kMaxLinearParts, p.groups,
                                            kMaxLinearParts);
  c.require<"heads", "must be in [1, 128]">(p.heads >= 1 && p.heads <= kMaxHeads, p.heads, kMaxHeads);
  if (!c.ok()) return;
  c.require<"heads", "must be a multiple of groups">(p.heads % p.groups == 0, p.heads, p.groups);
  c.require<"head_dim", "must be 512: no other is compiled">(p.head_dim == kHeadDim, p.head_dim, kHeadDim,
                                                             Code::kUnsupported);
  c.require<"rank", "must be in [1, 65536]">(p.rank >= 1 && p.rank <= 65536, p.rank, 65536);
  c.require<"dtype", "has no instance in this build">(
      p.dtype == DType::kBf16 || (kHasF32 && p.dtype == DType::kF32), static_cast<std::int64_t>(p.dtype), 0,
      Code::kUnsupported);
  if (!c.ok()) return;
  const bool f32 = p.dtype == DType::kF32;
  c.require<"rank", "must be a multiple of 16 with FP8 wo_a">(
      f32 || p.wo_a.format != WeightFormat::kFp8 || p.groups == 1 || p.rank % 16 == 0, p.rank, 16,
      Code::kUnsupported);
  const std::int64_t channels = std::int64_t{p.heads} * p.head_dim, k = std::int64_t{p.groups} * p.rank;
  c.require<"rank", "times groups must be a multiple of 16 bytes of wo_b">(
      f32 || k % (p.wo_b.format == WeightFormat::kFp8 ? 16 : 8) == 0, k, 16, Code::kUnsupported);
  check_weight<"wo_a">(c, p.wo_a, channels / p.groups, p.dtype);
  check_weight<"wo_b">(c, p.wo_b, k, p.dtype);
  c.stride<"o_stride">(p.o_stride, channels, f32 ? 4 : 8);
  c.stride<"y_stride">(p.y_stride, p.hidden);
  const std::int64_t slices = (p.heads + kWarps * kHeads - 1) / (kWarps * kHeads);
  c.require<"tokens", "and heads must fit a grid of 2^31-1 blocks">(
      !p.rotate_back || p.tokens * slices <= INT32_MAX, p.tokens * slices, INT32_MAX);
  if (p.rotate_back) check_rope_sizes<"", "rope">(c, p.rope, p.rope_dim, p.position_type);
}

void check_pointers(OutProjChecks& c, const AttnOutProjParams& p) {
  c.pointer<"y">(p.y, static_cast<std::size_t>(element_bytes(y_type(p))));
  c.pointer<"o">(p.o, 16);
  check_weight_pointers<"wo_a">(c, p.wo_a, p.dtype);
  check_weight_pointers<"wo_b">(c, p.wo_b, p.dtype);
  if (p.rotate_back) check_rope_pointers<"", "rope">(c, p.rope, p.positions, p.position_type);
  const std::size_t needed = attn_out_proj_workspace_bytes(p);
  c.require<"workspace_bytes", "must be at least the op's workspace size">(
      p.workspace_bytes >= needed, static_cast<std::int64_t>(p.workspace_bytes),
      static_cast<std::int64_t>(needed), Code::kWorkspaceTooSmall);
  c.pointer<"workspace">(p.workspace, kWorkspaceAlignment);
}

template <class T>
Status rotate_back(const AttnOutProjParams& p, void* rotated, Stream stream) {
  const int slices = (p.heads + kWarps * kHeads - 1) / (kWarps * kHeads);
  const RotateBack<T> a = {.out = static_cast<T*>(rotated),
                           .o = static_cast<const T*>(p.o),
                           .positions = kernels::positions(p.positions, p.position_type),
                           .angles = kernels::angles(p.rope),
                           .o_stride = stride_or(p.o_stride, std::int64_t{p.heads} * p.head_dim),
                           .heads = p.heads};
  return arch::launch("attn_out_proj", rotate_back_kernel<T>,
                      {.grid = {static_cast<unsigned>(p.tokens * slices), 1, 1},
                       .block = {kWarps * arch::kWarpThreads, 1, 1},
                       .overlap_previous = true},
                      stream, a, slices);
}

}  // namespace

std::size_t attn_out_proj_workspace_bytes(const AttnOutProjParams& p) noexcept {
  Workspace w;
  take_parts(w, p);
  return w.bytes();
}

DSV4_OP(attn_out_proj, AttnOutProjParams) {
  OutProjChecks c;
  check_sizes(c, p);
  if (!c.ok()) return c.status();
  if (p.tokens == 0) return {};
  check_pointers(c, p);
  if (!c.ok()) return c.status();
  Workspace workspace(p.workspace);
  const Parts parts = take_parts(workspace, p);
  if (p.rotate_back) {
    const Status s = with_type(p.dtype, "attn_out_proj: dtype", [&](auto type) {
      return rotate_back<typename decltype(type)::type>(p, parts.rotated, stream);
    });
    if (!s.ok()) return s;
  }
  const Status s = linear_multi(wo_a_params(p, parts), stream);
  if (!s.ok()) return s;
  return linear_multi(wo_b_params(p, parts), stream);
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
