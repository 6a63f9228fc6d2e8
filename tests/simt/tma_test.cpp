// TMA and bulk copies of the SIMT machine against loops over elements.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/bulk.cuh>
#include <dsv4/arch/cluster.cuh>
#include <dsv4/arch/fence.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/mbarrier.cuh>
#include <dsv4/arch/swizzle.hpp>
#include <dsv4/arch/tensor_map.cuh>
#include <dsv4/arch/tma.cuh>
#include <dsv4/core/types.hpp>
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/simt/policies.hpp"

#include <array>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

using namespace dsv4;
using namespace dsv4::test;
using arch::Swizzle;
using arch::TensorMap;
using arch::TensorType;

// A dense tensor of 2-byte elements, rows padded to a multiple of 16 bytes; element values are their number.
struct Tensor {
  std::vector<std::uint16_t> data;
  arch::TensorMapShape shape;

  Tensor(std::vector<std::uint64_t> dim, std::vector<std::uint32_t> box, Swizzle swizzle) {
    shape.type = TensorType::kU16;
    shape.rank = static_cast<int>(dim.size());
    shape.swizzle = swizzle;
    std::uint64_t elements = (dim[0] + 7) / 8 * 8;
    for (std::size_t i = 0; i < dim.size(); ++i) {
      shape.dim[i] = dim[i];
      shape.box[i] = box[i];
      if (i == 0) continue;
      shape.stride_bytes[i - 1] = elements * 2;
      elements *= dim[i];
    }
    data.resize(elements + 8);
    for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<std::uint16_t>(i * 3 + 1);
  }
  // std::vector aligns to 16 bytes.
  TensorMap map() {
    TensorMap m;
    const Status s = arch::make_tensor_map(m, data.data(), shape);
    INFO(s.what);
    REQUIRE(s.ok());
    return m;
  }
  std::size_t box_elements() const {
    std::size_t n = 1;
    for (int i = 0; i < shape.rank; ++i) n *= shape.box[i];
    return n;
  }
  // Element e of the box at c; null outside.
  std::uint16_t* at(const std::array<std::int32_t, 5>& c, std::size_t e) {
    std::size_t offset = 0;
    for (int i = 0; i < shape.rank; ++i) {
      const std::int64_t x = c[static_cast<std::size_t>(i)] + static_cast<std::int64_t>(e % shape.box[i]);
      e /= shape.box[i];
      if (x < 0 || x >= static_cast<std::int64_t>(shape.dim[i])) return nullptr;
      offset += static_cast<std::size_t>(x) * (i ? shape.stride_bytes[i - 1] / 2 : 1);
    }
    return &data[offset];
  }
};

// Where byte `offset` of a tile goes, by the figures of the PTX ISA: chunk c of 16 bytes in row r of a tile
// goes to place c ^ (r mod 8) for 128-byte rows, c ^ (r / 2 mod 4) for 64, c ^ (r / 4 mod 2) for 32.
std::size_t place(Swizzle s, std::size_t offset) {
  const std::size_t row_bytes = std::size_t{16} << static_cast<int>(s);
  if (s == Swizzle::kNone) return offset;
  const std::size_t row = offset / row_bytes, chunk = offset / 16 % (row_bytes / 16);
  const std::size_t key = s == Swizzle::k128 ? row % 8 : s == Swizzle::k64 ? row / 2 % 4 : row / 4 % 2;
  return row * row_bytes + (chunk ^ key) * 16 + offset % 16;
}

struct TileShared {
  alignas(1024) std::uint16_t tile[8192];
  arch::Mbarrier b;
};

template <int kRank>
DSV4_KERNEL(32)
load_kernel(const DSV4_GRID_CONSTANT TensorMap map, std::array<std::int32_t, 5> c, unsigned bytes,
            std::uint16_t* out) {
  DSV4_DYN_SMEM(TileShared, s);
  const unsigned lane = arch::thread_idx().x;
  if (lane == 0) {
    arch::tma_prefetch(map);
    arch::mbarrier_init(s->b, 1);
    arch::fence_mbarrier_init();
  }
  arch::sync_warp();
  if (lane == 0) {
    arch::mbarrier_arrive_expect_tx(s->b, bytes);
    std::int32_t at[kRank];
    for (int i = 0; i < kRank; ++i) at[i] = c[static_cast<std::size_t>(i)];
    arch::tma_load(s->tile, map, s->b, at, arch::L2Hint::kEvictFirst);
  }
  arch::mbarrier_wait(s->b, 0);
  for (unsigned i = lane; i < bytes / 2; i += 32) out[i] = s->tile[i];
}

template <int kRank>
void check_load(Tensor& t, std::array<std::int32_t, 5> c) {
  const auto bytes = static_cast<unsigned>(2 * t.box_elements());
  std::vector<std::uint16_t> out(bytes / 2), expected(bytes / 2);
  for (std::size_t e = 0; e < expected.size(); ++e) {
    const std::uint16_t* p = t.at(c, e);
    expected[place(t.shape.swizzle, 2 * e) / 2] = p ? *p : 0;
  }
  simt::launch("load", load_kernel<kRank>, threads(32, sizeof(TileShared)), t.map(), c, bytes, out.data());
  CHECK(out == expected);
}

enum class Out { kStore, kAdd };
template <Out kOut>
DSV4_KERNEL(32)
store_kernel(const DSV4_GRID_CONSTANT TensorMap map, std::array<std::int32_t, 2> c, const std::uint32_t* in,
             unsigned words) {
  DSV4_DYN_SMEM(TileShared, s);
  const unsigned lane = arch::thread_idx().x;
  auto* tile = reinterpret_cast<std::uint32_t*>(s->tile);
  for (unsigned i = lane; i < words; i += 32) tile[i] = in[i];
  arch::fence_proxy_async();
  arch::sync_warp();
  if (lane == 0) {
    const std::int32_t at[2] = {c[0], c[1]};
    if constexpr (kOut == Out::kStore)
      arch::tma_store(map, at, tile);
    else
      arch::tma_reduce_add(map, at, tile);
    arch::bulk_commit();
    arch::bulk_wait_read<0>();
  }
  arch::sync_warp();
  for (unsigned i = lane; i < words; i += 32) tile[i] = 0xdeadbeef;  // the source has been read
}

DSV4_KERNEL(64) multicast_kernel(const DSV4_GRID_CONSTANT TensorMap map, unsigned mask, std::uint16_t* out) {
  DSV4_DYN_SMEM(TileShared, s);
  const std::uint32_t rank = arch::cluster_rank();
  const unsigned thread = arch::thread_idx().x;
  if (thread == 0) {
    arch::mbarrier_init(s->b, 1);
    arch::fence_mbarrier_init();
  }
  arch::cluster_sync();
  const bool is_target = (mask >> rank & 1) != 0;
  if (thread == 0 && is_target) arch::mbarrier_arrive_expect_tx(s->b, 8 * 64 * 2);
  if (thread == 0 && rank == 0)
    arch::tma_load_multicast(s->tile, map, s->b, {64, 2}, static_cast<std::uint16_t>(mask));
  if (is_target) {
    arch::mbarrier_wait(s->b, 0);
    for (unsigned i = thread; i < 8 * 64; i += 64) out[rank * 512 + i] = s->tile[i];
  }
  arch::cluster_sync();
}

struct BulkShared {
  alignas(128) std::uint32_t in[256], out[256];
  arch::Mbarrier b;
};
DSV4_KERNEL(32)
bulk_kernel(const std::uint32_t* in, std::uint32_t* out, float* sum_f, bf16* sum_b, std::uint32_t* sum_u) {
  DSV4_DYN_SMEM(BulkShared, s);
  const unsigned lane = arch::thread_idx().x;
  if (lane == 0) {
    arch::mbarrier_init(s->b, 1);
    arch::fence_mbarrier_init();
    arch::mbarrier_arrive_expect_tx(s->b, sizeof s->in);
    arch::bulk_load(s->in, in, 512, s->b);
    arch::bulk_load(s->in + 128, in + 128, 512, s->b, arch::L2Hint::kEvictLast);
  }
  arch::sync_warp();
  arch::mbarrier_wait(s->b, 0);
  for (unsigned i = lane; i < 256; i += 32) s->out[i] = s->in[i] + 1;
  arch::fence_proxy_async();
  arch::sync_warp();
  if (lane == 0) {
    arch::bulk_store(out, s->out, sizeof s->out);
    arch::bulk_commit();
    arch::bulk_reduce_add(sum_f, reinterpret_cast<float*>(s->in), 64 * 4);
    arch::bulk_reduce_add(sum_b, reinterpret_cast<bf16*>(s->in + 64), 128 * 2);
    arch::bulk_commit();
    arch::bulk_reduce_add(sum_u, s->in + 128, 128 * 4);
    arch::bulk_commit();
    arch::bulk_wait<1>();
    arch::bulk_wait<0>();
  }
}

}  // namespace

TEST_CASE("swizzled() is the pattern of the PTX ISA's figures", "[arch][swizzle]") {
  for (const Swizzle s : {Swizzle::kNone, Swizzle::k32, Swizzle::k64, Swizzle::k128})
    for (std::uint32_t offset = 0; offset < 4096; ++offset)
      REQUIRE(arch::swizzled(s, offset) == place(s, offset));
}

TEST_CASE("TMA loads boxes of one to five dimensions", "[simt][tma]") {
  for_each_policy([] {
    Tensor one({100}, {64}, Swizzle::kNone);
    check_load<1>(one, {0});
    check_load<1>(one, {50});
    check_load<1>(one, {-7});
    Tensor three({40, 5, 7}, {16, 3, 4}, Swizzle::k32);
    check_load<3>(three, {8, 1, 2});
    check_load<3>(three, {30, -1, 5});
    Tensor four({24, 3, 4, 5}, {8, 2, 3, 2}, Swizzle::kNone);
    check_load<4>(four, {8, 1, 1, 3});
    check_load<4>(four, {20, 2, -1, 4});
    Tensor five({16, 3, 3, 3, 4}, {8, 2, 2, 2, 3}, Swizzle::kNone);
    check_load<5>(five, {8, 1, 1, 0, 1});
    check_load<5>(five, {-3, 2, 2, -1, 2});
  });
}

TEST_CASE("TMA swizzles rows and fills with zeros outside the tensor", "[simt][tma]") {
  for (const Swizzle s : {Swizzle::kNone, Swizzle::k32, Swizzle::k64, Swizzle::k128}) {
    CAPTURE(static_cast<int>(s));
    const std::uint32_t width = s == Swizzle::kNone ? 24 : arch::swizzle_row_bytes(s) / 2;
    Tensor t({75, 37}, {width, 19}, s);
    for (const std::int32_t x : {-5, 0, 8, 60, 75, 200})
      for (const std::int32_t y : {-3, 0, 11, 36, 40}) {
        CAPTURE(x, y);
        check_load<2>(t, {x, y});
      }
  }
}

TEST_CASE("TMA stores what lies in the tensor", "[simt][tma]") {
  for_each_policy([] {
    for (const Swizzle s : {Swizzle::kNone, Swizzle::k64, Swizzle::k128}) {
      const std::uint32_t width = s == Swizzle::kNone ? 16 : arch::swizzle_row_bytes(s) / 2;
      for (const std::int32_t x : {-4, 3, 70})
        for (const std::int32_t y : {-2, 0, 14}) {
          CAPTURE(static_cast<int>(s), x, y);
          Tensor t({75, 20}, {width, 9}, s), expected = t;
          const std::size_t n = t.box_elements();
          std::vector<std::uint32_t> in(n / 2);
          for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<std::uint32_t>(i * 2654435761u);
          for (std::size_t e = 0; e < n; ++e)
            if (std::uint16_t* p = expected.at({x, y}, e))
              std::memcpy(p, reinterpret_cast<const char*>(in.data()) + place(s, 2 * e), 2);
          std::size_t inside = 0;
          for (std::size_t e = 0; e < n; ++e) inside += t.at({x, y}, e) != nullptr;
          const simt::Watch watch(t.data.data(), t.data.size() * 2);
          simt::launch("store", store_kernel<Out::kStore>, threads(32, sizeof(TileShared)), t.map(),
                       std::array<std::int32_t, 2>{x, y}, in.data(), static_cast<unsigned>(in.size()));
          CHECK(t.data == expected.data);
          CHECK(watch.written_bytes() == 2 * inside);
        }
    }
  });
}

TEST_CASE("TMA adds to a tensor, blocks in any order", "[simt][tma]") {
  for_each_policy([] {
    constexpr int kBlocks = 5;
    std::vector<float> f(10 * 32, 1.0f);
    std::vector<bf16> b(10 * 64, from_float<bf16>(1.0f));
    std::vector<std::uint32_t> u(10 * 32, 1u);
    const auto add = [](TensorType type, void* base, std::uint64_t width,
                        const std::vector<std::uint32_t>& in) {
      arch::TensorMapShape shape;
      shape.type = type;
      shape.rank = 2;
      shape.dim[0] = width;
      shape.dim[1] = 10;
      shape.stride_bytes[0] = 128;
      shape.box[0] = static_cast<std::uint32_t>(width);
      shape.box[1] = 4;
      shape.swizzle = Swizzle::k128;
      TensorMap map{};
      REQUIRE(arch::make_tensor_map(map, base, shape).ok());
      simt::launch("add", store_kernel<Out::kAdd>, threads(32, sizeof(TileShared), kBlocks), map,
                   std::array<std::int32_t, 2>{0, 7}, in.data(), static_cast<unsigned>(in.size()));
    };
    add(TensorType::kF32, f.data(), 32, std::vector<std::uint32_t>(128, bits_as<std::uint32_t>(0.5f)));
    add(TensorType::kBf16, b.data(), 64, std::vector<std::uint32_t>(128, 0x3f003f00u));  // 0.5, 0.5
    add(TensorType::kU32, u.data(), 32, std::vector<std::uint32_t>(128, 3u));
    for (std::size_t row = 0; row < 10; ++row) {
      CAPTURE(row);
      const bool is_there = row >= 7;
      for (std::size_t i = 0; i < 32; ++i) {
        REQUIRE(f[row * 32 + i] == (is_there ? 3.5f : 1.0f));
        REQUIRE(u[row * 32 + i] == (is_there ? 16u : 1u));
      }
      for (std::size_t i = 0; i < 64; ++i) REQUIRE(to_float(b[row * 64 + i]) == (is_there ? 3.5f : 1.0f));
    }
  });
}

TEST_CASE("TMA multicast reaches the blocks of its mask", "[simt][tma][cluster]") {
  for_each_policy([] {
    Tensor t({128, 16}, {64, 8}, Swizzle::k128);
    for (const unsigned mask : {1u, 6u, 15u}) {
      CAPTURE(mask);
      std::vector<std::uint16_t> out(4 * 512, 9), expected(4 * 512, 9);
      for (std::size_t rank = 0; rank < 4; ++rank)
        for (std::size_t e = 0; e < 512; ++e)
          if (mask >> rank & 1) expected[rank * 512 + place(Swizzle::k128, 2 * e) / 2] = *t.at({64, 2}, e);
      simt::launch("multicast", multicast_kernel, threads(64, sizeof(TileShared), 4, 4), t.map(), mask,
                   out.data());
      CHECK(out == expected);
    }
  });
}

TEST_CASE("bulk copies and reductions", "[simt][bulk]") {
  for_each_policy([] {
    alignas(16) std::uint32_t in[256], out[256] = {}, sum_u[128];
    alignas(16) float sum_f[64];
    alignas(16) bf16 sum_b[128];
    for (std::uint32_t i = 0; i < 256; ++i) {
      in[i] = i < 64    ? bits_as<std::uint32_t>(static_cast<float>(i) * 0.25f)
              : i < 128 ? 0x40003f80u  // bf16 1 and 2
                        : i * 1000003u;
      if (i < 64) sum_f[i] = 10.0f;
      if (i < 128) sum_b[i] = from_float<bf16>(static_cast<float>(i)), sum_u[i] = 0xfffffff0u;
    }
    const simt::Watch watched_in(in, sizeof in), watched_out(out, sizeof out);
    simt::reset_counters();
    simt::launch("bulk", bulk_kernel, threads(32, sizeof(BulkShared)), in, out, sum_f, sum_b, sum_u);
    CHECK(simt::counters().tma == 6);
    CHECK(watched_in.read_bytes() == sizeof in);
    CHECK(watched_out.written_bytes() == sizeof out);
    for (std::uint32_t i = 0; i < 256; ++i) REQUIRE(out[i] == in[i] + 1);
    for (std::uint32_t i = 0; i < 64; ++i) REQUIRE(sum_f[i] == 10.0f + static_cast<float>(i) * 0.25f);
    for (std::uint32_t i = 0; i < 128; ++i) {
      REQUIRE(to_float(sum_b[i]) == static_cast<float>(i + 1 + i % 2));
      REQUIRE(sum_u[i] == 0xfffffff0u + in[128 + i]);
    }
  });
}
