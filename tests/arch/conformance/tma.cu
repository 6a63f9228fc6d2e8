// Tensor maps and bulk copies: what a box looks like in shared memory, what leaves it, and where it goes.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/bulk.cuh>
#include <dsv4/arch/cluster.cuh>
#include <dsv4/arch/fence.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/launch.cuh>
#include <dsv4/arch/mbarrier.cuh>
#include <dsv4/arch/tma.cuh>
#include <dsv4/core/types.hpp>

#include "tests/arch/conformance/case.hpp"

#include <type_traits>

namespace dsv4::conformance::inline DSV4_FLAVOUR {
namespace {

using arch::Swizzle;
using arch::TensorMap;
using arch::TensorMapShape;
using arch::TensorType;

constexpr int kThreads = 64;
constexpr std::uint32_t kTileWords = 1024;

struct Shared {
  alignas(1024) std::uint32_t tile[kTileWords];
  arch::Mbarrier arrived;
};

struct Point {
  std::int32_t x[5];
};

// ---- loads -----------------------------------------------------------------------------------------------
// Shared memory as a load leaves it, swizzle and zeros included.
template <int kRank, arch::L2Hint kHint>
DSV4_KERNEL(kThreads)
load_kernel(const DSV4_GRID_CONSTANT TensorMap map, Point p, std::uint32_t words, std::uint32_t* out) {
  DSV4_DYN_SMEM(Shared, s);
  const std::uint32_t t = arch::thread_idx().x;
  if (t == 0) {
    arch::tma_prefetch(map);
    arch::mbarrier_init(s->arrived, 1);
    arch::fence_mbarrier_init();
  }
  arch::sync_threads();
  if (t == 0) {
    arch::mbarrier_arrive_expect_tx(s->arrived, words * 4);
    std::int32_t c[kRank];
    DSV4_UNROLL
    for (int i = 0; i < kRank; ++i) c[i] = p.x[i];
    arch::tma_load(s->tile, map, s->arrived, c, kHint);
  }
  arch::mbarrier_wait(s->arrived, 0);
  for (std::uint32_t i = t; i < words; i += kThreads) out[i] = s->tile[i];
}

struct Load {
  TensorMapShape shape;
  Point point;
};

// A box that hangs over edges of the tensor in scratch, in every dimension.
template <int kRank>
Load load_of() {
  Load l;
  l.shape.type = TensorType::kU16;
  l.shape.rank = kRank;
  constexpr std::uint64_t kDim[5] = {44, 5, 3, 3, 2};
  constexpr std::uint32_t kBox[5] = {24, 3, 2, 2, 2};
  constexpr std::int32_t kAt[5] = {28, -1, 2, 1, -1};
  std::uint64_t bytes = 96;  // 44 elements, padded
  for (int i = 0; i < kRank; ++i) {
    l.shape.dim[i] = kDim[i];
    l.shape.box[i] = kBox[i];
    l.point.x[i] = kAt[i];
    if (i > 0) l.shape.stride_bytes[i - 1] = bytes;
    if (i > 0) bytes *= kDim[i];
  }
  return l;
}

template <Swizzle kSwizzle>
Load swizzled_load() {
  Load l;
  l.shape.type = TensorType::kU8;
  l.shape.rank = 2;
  l.shape.dim[0] = 150, l.shape.dim[1] = 25;
  l.shape.stride_bytes[0] = 160;
  l.shape.box[0] = arch::swizzle_row_bytes(kSwizzle);
  l.shape.box[1] = 32;
  l.shape.swizzle = kSwizzle;
  l.point = {{48, -5}};
  return l;
}

std::uint32_t box_words(const TensorMapShape& shape) {
  std::uint32_t bytes = arch::tensor_type_bytes(shape.type);
  for (int i = 0; i < shape.rank; ++i) bytes *= shape.box[i];
  return bytes / 4;
}

template <Load (*kLoad)(), int kRank, arch::L2Hint kHint = arch::L2Hint::kNone>
Status run_load(Buffers buffers, Stream stream) noexcept {
  const Load load = kLoad();
  TensorMap map;
  const Status made = arch::make_tensor_map(map, buffers.scratch, load.shape);
  if (!made.ok()) return made;
  return arch::launch("tma_load", load_kernel<kRank, kHint>,
                      {.grid = {}, .block = {kThreads, 1, 1}, .shared_bytes = sizeof(Shared)}, stream, map,
                      load.point, box_words(load.shape), buffers.out);
}

template <Load (*kLoad)(), int kRank, arch::L2Hint kHint = arch::L2Hint::kNone>
Case load_case(const char* name) {
  return {name,
          Compare::kBits,
          90,
          false,
          static_cast<int>(box_words(kLoad().shape)),
          2304,
          run_load<kLoad, kRank, kHint>};
}

// ---- stores and additions to out
// ---------------------------------------------------------------------------
DSV4_DEVICE void fill_tile(Shared* s, const std::uint32_t* from, std::uint32_t words) {
  for (std::uint32_t i = arch::thread_idx().x; i < words; i += kThreads) s->tile[i] = from[i];
  arch::fence_proxy_async();
  arch::sync_threads();
}

template <int kRank, bool kAdd>
DSV4_KERNEL(kThreads)
store_kernel(const DSV4_GRID_CONSTANT TensorMap map, Point p, std::uint32_t words, const std::uint32_t* in) {
  DSV4_DYN_SMEM(Shared, s);
  fill_tile(s, in, words);
  if (arch::thread_idx().x == 0) {
    std::int32_t c[kRank];
    DSV4_UNROLL
    for (int i = 0; i < kRank; ++i) c[i] = p.x[i];
    if constexpr (kAdd)
      arch::tma_reduce_add(map, c, s->tile);
    else
      arch::tma_store(map, c, s->tile);
    arch::bulk_commit();
    arch::bulk_wait_read<0>();
  }
}

template <Load (*kLoad)(), int kRank>
Status run_store(Buffers buffers, Stream stream) noexcept {
  const Load load = kLoad();
  TensorMap map;
  const Status made = arch::make_tensor_map(map, buffers.out, load.shape);
  if (!made.ok()) return made;
  return arch::launch("tma_store", store_kernel<kRank, false>,
                      {.grid = {}, .block = {kThreads, 1, 1}, .shared_bytes = sizeof(Shared)}, stream, map,
                      load.point, box_words(load.shape), static_cast<const std::uint32_t*>(buffers.scratch));
}

// Elements that every order of addition sums exactly.
template <class T>
DSV4_KERNEL(kThreads)
number_kernel(std::uint32_t* words) {
  for (std::uint32_t i = arch::thread_idx().x; i < kTileWords; i += kThreads) {
    const auto x = static_cast<float>(words[i] % 15) - 7.0f,
               y = static_cast<float>(words[i] / 16 % 15) - 7.0f;
    if constexpr (std::is_same_v<T, float>)
      words[i] = bits_as<std::uint32_t>(x);
    else if constexpr (std::is_same_v<T, bf16>)
      words[i] = std::uint32_t{from_float<bf16>(x).bits} | std::uint32_t{from_float<bf16>(y).bits} << 16;
  }
}

template <class T>
constexpr TensorType kTypeOf = std::is_same_v<T, float>  ? TensorType::kF32
                               : std::is_same_v<T, bf16> ? TensorType::kBf16
                                                         : TensorType::kU32;

// Three blocks add the same box.
template <class T>
Status run_add(Buffers buffers, Stream stream) noexcept {
  Status s = arch::launch("number", number_kernel<T>, {.grid = {}, .block = {kThreads, 1, 1}}, stream,
                          buffers.scratch);
  if (!s.ok()) return s;
  TensorMapShape shape;
  shape.type = kTypeOf<T>;
  shape.rank = 2;
  shape.dim[0] = 128 / sizeof(T), shape.dim[1] = 20;
  shape.stride_bytes[0] = 128;
  shape.box[0] = 64 / sizeof(T), shape.box[1] = 16;
  shape.swizzle = Swizzle::k64;
  TensorMap map;
  s = arch::make_tensor_map(map, buffers.out, shape);
  if (!s.ok()) return s;
  return arch::launch("tma_reduce_add", store_kernel<2, true>,
                      {.grid = {3, 1, 1}, .block = {kThreads, 1, 1}, .shared_bytes = sizeof(Shared)}, stream,
                      map, Point{{static_cast<std::int32_t>(48 / sizeof(T)), 9}}, box_words(shape),
                      static_cast<const std::uint32_t*>(buffers.scratch));
}

// ---- multicast -------------------------------------------------------------------------------------------
constexpr std::uint32_t kMulticastBlocks = 4, kMulticastWords = 256;

DSV4_KERNEL(kThreads)
multicast_kernel(const DSV4_GRID_CONSTANT TensorMap map, std::uint32_t* out) {
  DSV4_DYN_SMEM(Shared, s);
  const std::uint32_t t = arch::thread_idx().x, rank = arch::cluster_rank();
  constexpr std::uint16_t kMask = 0b1011;
  const bool receives = (kMask >> rank & 1) != 0;
  if (t == 0) {
    arch::mbarrier_init(s->arrived, 1);
    arch::fence_mbarrier_init();
    if (receives) arch::mbarrier_arrive_expect_tx(s->arrived, 2 * kMulticastWords * 4);
  }
  arch::cluster_sync();
  if (t == 0 && rank == 2) {
    arch::tma_load_multicast(s->tile, map, s->arrived, {0, 0}, kMask);
    arch::tma_load_multicast(s->tile + kMulticastWords, map, s->arrived, {0, 3}, kMask,
                             arch::L2Hint::kEvictFirst);
  }
  if (receives) {
    arch::mbarrier_wait(s->arrived, 0);
    for (std::uint32_t i = t; i < 2 * kMulticastWords; i += kThreads)
      out[rank * 2 * kMulticastWords + i] = s->tile[i];
  }
  arch::cluster_sync();
}

Status run_multicast(Buffers buffers, Stream stream) noexcept {
  TensorMapShape shape;
  shape.type = TensorType::kU32;
  shape.rank = 2;
  shape.dim[0] = 32, shape.dim[1] = 9;
  shape.stride_bytes[0] = 128;
  shape.box[0] = 32, shape.box[1] = 8;
  shape.swizzle = Swizzle::k128;
  TensorMap map;
  const Status made = arch::make_tensor_map(map, buffers.scratch, shape);
  if (!made.ok()) return made;
  return arch::launch("tma_load_multicast", multicast_kernel,
                      {.grid = {kMulticastBlocks, 1, 1},
                       .block = {kThreads, 1, 1},
                       .shared_bytes = sizeof(Shared),
                       .cluster = {kMulticastBlocks, 1, 1}},
                      stream, map, buffers.out);
}

// ---- linear copies ---------------------------------------------------------------------------------------
template <class T>
DSV4_KERNEL(kThreads)
bulk_kernel(const std::uint32_t* in, std::uint32_t* out) {
  DSV4_DYN_SMEM(Shared, s);
  if (arch::thread_idx().x == 0) {
    arch::mbarrier_init(s->arrived, 1);
    arch::fence_mbarrier_init();
    arch::mbarrier_expect_tx(s->arrived, 1024);
    arch::mbarrier_arrive_expect_tx(s->arrived, 1040);
    arch::bulk_load(s->tile, in, 1024, s->arrived);
    arch::bulk_load(s->tile + 256, in + 256, 1040, s->arrived, arch::L2Hint::kEvictLast);
    arch::mbarrier_wait(s->arrived, 0);
    if constexpr (std::is_same_v<T, void>) {
      arch::bulk_store(out, s->tile, 16);
      arch::bulk_commit();
      arch::bulk_store(out + 8, s->tile + 4, 2048);
    } else {
      arch::bulk_reduce_add(reinterpret_cast<T*>(out), reinterpret_cast<const T*>(s->tile), 2048);
      arch::bulk_commit();
      arch::bulk_reduce_add(reinterpret_cast<T*>(out + 4), reinterpret_cast<const T*>(s->tile), 16);
    }
    arch::bulk_commit();
    arch::bulk_wait_read<1>();
    arch::bulk_wait<0>();
  }
}

template <class T>
Status run_bulk(Buffers buffers, Stream stream) noexcept {
  if constexpr (!std::is_same_v<T, void>) {
    const Status s = arch::launch("number", number_kernel<T>, {.grid = {}, .block = {kThreads, 1, 1}}, stream,
                                  buffers.scratch);
    if (!s.ok()) return s;
  }
  return arch::launch("bulk", bulk_kernel<T>,
                      {.grid = {}, .block = {kThreads, 1, 1}, .shared_bytes = sizeof(Shared)}, stream,
                      static_cast<const std::uint32_t*>(buffers.scratch), buffers.out);
}

}  // namespace

std::vector<Case> tma_cases() {
  constexpr int kBulkWords = 600;
  return {
      load_case<load_of<1>, 1>("tma/load_1d"),
      load_case<load_of<2>, 2>("tma/load_2d"),
      load_case<load_of<3>, 3>("tma/load_3d"),
      load_case<load_of<4>, 4>("tma/load_4d"),
      load_case<load_of<5>, 5, arch::L2Hint::kEvictFirst>("tma/load_5d_hint"),
      load_case<swizzled_load<Swizzle::k32>, 2>("tma/load_swizzle_32"),
      load_case<swizzled_load<Swizzle::k64>, 2>("tma/load_swizzle_64"),
      load_case<swizzled_load<Swizzle::k128>, 2>("tma/load_swizzle_128"),
      {"tma/load_multicast", Compare::kBits, 90, true, kMulticastBlocks * 2 * kMulticastWords, 288,
       run_multicast},
      {"tma/store_1d", Compare::kBits, 90, false, 32, 512, run_store<load_of<1>, 1>},
      {"tma/store_3d", Compare::kBits, 90, false, 384, 512, run_store<load_of<3>, 3>},
      {"tma/store_5d", Compare::kBits, 90, false, 2304, 1024, run_store<load_of<5>, 5>},
      {"tma/store_swizzle_128", Compare::kBits, 90, false, 1024, 1024,
       run_store<swizzled_load<Swizzle::k128>, 2>},
      {"tma/reduce_add_f32", Compare::kBits, 90, false, 640, kTileWords, run_add<float>},
      {"tma/reduce_add_bf16", Compare::kBits, 90, false, 640, kTileWords, run_add<bf16>},
      {"tma/reduce_add_u32", Compare::kBits, 90, false, 640, kTileWords, run_add<std::uint32_t>},
      {"bulk/load_store", Compare::kBits, 90, false, kBulkWords, kTileWords, run_bulk<void>},
      {"bulk/reduce_add_f32", Compare::kBits, 90, false, kBulkWords, kTileWords, run_bulk<float>},
      {"bulk/reduce_add_bf16", Compare::kBits, 90, false, kBulkWords, kTileWords, run_bulk<bf16>},
      {"bulk/reduce_add_u32", Compare::kBits, 90, false, kBulkWords, kTileWords, run_bulk<std::uint32_t>},
  };
}

}  // namespace dsv4::conformance::inline DSV4_FLAVOUR
