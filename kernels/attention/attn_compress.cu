// Op attn_compress: checks and launch. The work: attention/compressor_batch.cuh.
#include <dsv4/arch/coop.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/pdl.cuh>
#include <dsv4/attention/compressor_batch.cuh>
#include <dsv4/ops/attn_compress.hpp>

#include "kernels/common/cache.hpp"
#include "kernels/common/checks.hpp"
#include "kernels/common/dispatch.hpp"
#include "kernels/common/nan_guard.hpp"
#include "kernels/common/rope.hpp"

#include <cstdint>

namespace dsv4::ops::inline DSV4_FLAVOUR {
namespace {

using kernels::Checks;
using kernels::Text;

constexpr int kMainDim = 512, kIndexDim = 128;
constexpr int kThreads = kMainDim / attention::kQuad;
constexpr int kWarps = kThreads / arch::kWarpThreads;
static_assert(kIndexDim / attention::kQuad == arch::kWarpThreads, "a warp has an index row");

template <class T, int kRatio>
struct Arguments {
  attention::CompressorBatch batch;
  attention::Compressor<T, kRatio, kMainDim> main;
  attention::Compressor<T, kRatio, kIndexDim> index;  // ratio 4
  std::int64_t main_blocks;
};

// Block b: item b of the main compressor; then kWarps items of the index compressor each. Two blocks of a
// multiprocessor leave registers for the rows that a thread has in flight; no third is worth spilled ones.
template <class T, int kRatio>
DSV4_KERNEL_RESIDENT(kThreads, 2)
attn_compress_kernel(const DSV4_GRID_CONSTANT Arguments<T, kRatio> a) {
  struct alignas(16) Shared {
    T rows[2 * kMainDim];
  };
  static_assert(kWarps * kIndexDim <= kMainDim);
  DSV4_SHARED(Shared, shared);
  arch::allow_next_grid();
  arch::wait_for_previous_grid();
  const std::int64_t block = arch::block_idx().x;
  if (kRatio != 4 || block < a.main_blocks) {
    attention::compress_item(arch::CtaCoop<kThreads>{}, a.main, a.batch, block, shared.rows);
  } else if constexpr (kRatio == 4) {
    const int warp = arch::warp_id();
    attention::compress_item(arch::WarpCoop{}, a.index, a.batch, (block - a.main_blocks) * kWarps + warp,
                             shared.rows + warp * 2 * kIndexDim);
  }
}

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

bool is_present(const CompressorParams& c) { return c.kv != nullptr; }

/// Items of one compressor: a keeper a sequence, a picker for each `ratio` rows.
std::int64_t items_of(const AttnCompressParams& p) { return p.sequences + ceil_div(p.tokens, p.ratio); }
std::int64_t main_blocks(const AttnCompressParams& p) { return is_present(p.main) ? items_of(p) : 0; }
std::int64_t index_blocks(const AttnCompressParams& p) {
  return is_present(p.index) ? ceil_div(items_of(p), kWarps) : 0;
}

template <Text kIn, int kDim, class C>
void check_compressor_sizes(C& c, const CompressorParams& p, const AttnCompressParams& op) {
  if (!c.ok() || !is_present(p)) return;
  const auto pool_type = static_cast<std::int64_t>(p.entries.format);
  const bool rows = p.entries.format == CacheFormat::kRows;
  c.template require<kIn + Text(".dim"), "must be 512 (main) or 128 (index)">(p.dim == kDim, p.dim, kDim,
                                                                              Code::kUnsupported);
  c.template require<kIn + Text(".entries.format"), "is not for such entries">(
      rows || (kDim == kMainDim ? p.entries.format == CacheFormat::kKv584
                                : p.entries.format == CacheFormat::kIndexFp4 ||
                                      p.entries.format == CacheFormat::kIndexFp8),
      pool_type, 0, Code::kUnsupported);
  c.template require<kIn + Text(".entries.dtype"), "must be the op's">(
      !rows || p.entries.dtype == op.dtype, static_cast<std::int64_t>(p.entries.dtype),
      static_cast<std::int64_t>(op.dtype), Code::kUnsupported);
  if (!c.ok()) return;
  kernels::check_pool_sizes<kIn + Text(".entries")>(c, p.entries, kDim);
  kernels::check_slot_type<kIn + Text(".slot_type")>(c, p.slot_type);
  const attention::CompressorLayout layout{{op.ratio, kDim}, op.max_rollback};
  const std::int64_t width = layout.shape.width(), bytes = static_cast<std::int64_t>(layout.bytes());
  c.template stride<kIn + Text(".kv_stride")>(p.kv_stride, width, attention::kQuad);
  c.template stride<kIn + Text(".gate_stride")>(p.gate_stride, width, attention::kQuad);
  c.template require<kIn + Text(".state_stride"), "must hold a state">(
      p.state_stride == 0 || p.state_stride >= bytes, p.state_stride, bytes);
  c.template require<kIn + Text(".state_stride"), "must be a multiple of 16 bytes">(p.state_stride % 16 == 0,
                                                                                    p.state_stride, 16);
}

template <Text kIn, class C>
void check_compressor_pointers(C& c, const CompressorParams& p, const AttnCompressParams& op) {
  if (!c.ok() || !is_present(p)) return;
  c.template pointer<kIn + Text(".kv")>(p.kv, 16);
  c.template pointer<kIn + Text(".gate")>(p.gate, 16);
  c.template pointer<kIn + Text(".ape")>(p.ape, 16);
  c.template pointer<kIn + Text(".norm")>(p.norm, 16);
  c.template pointer<kIn + Text(".entry_slots")>(p.entry_slots, kernels::slot_bytes(p.slot_type));
  if (op.states > 0) c.template pointer<kIn + Text(".state")>(p.state, 16);
  kernels::check_pool_pointers<kIn + Text(".entries")>(c, p.entries);
}

template <class C>
void check_sizes(C& c, const AttnCompressParams& p) {
  const auto count = [](std::int64_t n) { return n >= 0 && n <= INT32_MAX; };
  c.template require<"tokens", "must be 0 .. 2^31-1">(count(p.tokens), p.tokens, INT32_MAX);
  c.template require<"sequences", "must be 0 .. 2^31-1">(count(p.sequences), p.sequences, INT32_MAX);
  c.template require<"states", "must not be negative">(p.states >= 0, p.states, 0);
  c.template require<"ratio", "must be 4 or 128">(p.ratio == 4 || p.ratio == 128, p.ratio, 0,
                                                  Code::kUnsupported);
  c.template require<"max_rollback", "must be 0 .. 1024">(p.max_rollback >= 0 && p.max_rollback <= 1024,
                                                          p.max_rollback, 1024);
  c.template require<"index", "is for ratio 4 alone">(p.ratio == 4 || !is_present(p.index), p.ratio, 4);
  c.template require<"start_type", "must be int32 or int64">(
      p.start_type == PositionType::kInt32 || p.start_type == PositionType::kInt64,
      static_cast<std::int64_t>(p.start_type), 0, Code::kUnsupported);
  kernels::check_rope_sizes<"", "rope">(c, p.rope, p.rope_dim, p.start_type);
  check_compressor_sizes<"main", kMainDim>(c, p.main, p);
  check_compressor_sizes<"index", kIndexDim>(c, p.index, p);
  if (!c.ok()) return;
  const std::int64_t blocks = main_blocks(p) + index_blocks(p);
  c.template require<"tokens", "and sequences must fit one launch">(blocks <= INT32_MAX, blocks, INT32_MAX);
}

template <class T, int kRatio, int kDim>
attention::Compressor<T, kRatio, kDim> compressor(const CompressorParams& p, const AttnCompressParams& op) {
  using C = attention::Compressor<T, kRatio, kDim>;
  using Format = typename attention::EntryPool<T, kDim>::Format;
  C c{};
  if (!is_present(p)) return c;
  c.layout = {{kRatio, kDim}, op.max_rollback};
  const std::int64_t width = c.layout.shape.width();
  c.rows = {p.kv, p.gate, p.ape, kernels::stride_or(p.kv_stride, width),
            kernels::stride_or(p.gate_stride, width)};
  c.norm = p.norm;
  c.states = static_cast<std::uint8_t*>(p.state);
  c.state_stride = kernels::stride_or(p.state_stride, static_cast<std::int64_t>(c.layout.bytes()));
  c.entry_slots = kernels::slots(p.entry_slots, p.slot_type);
  c.entries.slots = p.entries.slots;
  switch (p.entries.format) {
    case CacheFormat::kRows:
      c.entries.format = Format::kRows;
      c.entries.rows = kernels::row_pool<T>(p.entries, kDim);
      break;
    case CacheFormat::kKv584:
      c.entries.format = Format::kKv584;
      c.entries.kv = kernels::page_pool<attention::KvPagePool>(p.entries);
      break;
    case CacheFormat::kIndexFp4:
      c.entries.format = Format::kIndexFp4;
      c.entries.fp4 = kernels::page_pool<attention::IndexFp4Pool>(p.entries);
      break;
    case CacheFormat::kIndexFp8:
      c.entries.format = Format::kIndexFp8;
      c.entries.fp8 = kernels::page_pool<attention::IndexFp8Pool>(p.entries);
      break;
  }
  c.angles = kernels::angles(op.rope);
  c.eps = op.eps;
  return c;
}

template <class T, int kRatio>
Status launch_compress(const AttnCompressParams& p, Stream stream) {
  const Arguments<T, kRatio> a = {.batch = {p.first_token, kernels::positions(p.start, p.start_type),
                                            p.state_of, p.sequences, p.states, p.tokens},
                                  .main = compressor<T, kRatio, kMainDim>(p.main, p),
                                  .index = compressor<T, kRatio, kIndexDim>(p.index, p),
                                  .main_blocks = main_blocks(p)};
  return arch::launch("attn_compress", attn_compress_kernel<T, kRatio>,
                      {.grid = {static_cast<unsigned>(main_blocks(p) + index_blocks(p)), 1, 1},
                       .block = {kThreads, 1, 1},
                       .overlap_previous = true},
                      stream, a);
}

}  // namespace

DSV4_OP(attn_compress, AttnCompressParams) {
  Checks<"attn_compress"> c;
  check_sizes(c, p);
  if (!c.ok()) return c.status();
  return kernels::with_type(p.dtype, "attn_compress: dtype", [&](auto type) -> Status {
    using T = typename decltype(type)::type;
    if (p.tokens == 0 || p.sequences == 0 || (!is_present(p.main) && !is_present(p.index))) return {};
    c.pointer<"first_token">(p.first_token, alignof(std::int32_t));
    c.optional<"state_of">(p.state_of, alignof(std::int32_t));
    c.pointer<"start">(p.start, p.start_type == PositionType::kInt64 ? 8 : 4);
    kernels::check_rope_pointers<"", "rope">(c, p.rope, p.start, p.start_type);
    check_compressor_pointers<"main">(c, p.main, p);
    check_compressor_pointers<"index">(c, p.index, p);
    if (!c.ok()) return c.status();
    return p.ratio == 4 ? launch_compress<T, 4>(p, stream) : launch_compress<T, 128>(p, stream);
  });
}

std::size_t attn_compress_state_bytes(std::int32_t ratio, std::int32_t dim,
                                      std::int32_t max_rollback) noexcept {
  const bool known = ratio == 4 ? dim == 512 || dim == 128 : ratio == 128 && dim == 512;
  if (!known || max_rollback < 0 || max_rollback > 1024) return 0;
  return attention::CompressorLayout{{ratio, dim}, max_rollback}.bytes();
}

}  // namespace dsv4::ops::inline DSV4_FLAVOUR
