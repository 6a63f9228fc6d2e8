// Bytes of global memory that a kernel moves, by range.
#include <dsv4/arch/cp_async.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/simt/launch.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/support/catch.hpp"

#include <cstdint>
#include <vector>

namespace {

using namespace dsv4;
using Float4 = arch::Vec<float, 4>;

template <class... P, class... A>
void launch(void (*kernel)(P...), unsigned grid, unsigned block, A... arguments) {
  simt::launch("kernel_under_test", kernel, {{grid, 1, 1}, {block, 1, 1}, {}, 0, false}, arguments...);
}

DSV4_KERNEL(64) scale(const float* in, float* out, unsigned* blocks) {
  const unsigned i = arch::block_idx().x * 64 + arch::thread_idx().x;
  Float4 v = arch::load(reinterpret_cast<const Float4*>(in) + i);
  for (float& x : v.v) x *= 2;
  arch::store<arch::Cache::kStreaming>(reinterpret_cast<Float4*>(out) + i, v);
  if (arch::thread_idx().x == 0) arch::atomic_add(blocks, 1);
}

TEST_CASE("watch: bytes read and written by range", "[simt][watch]") {
  std::vector<float> in(1024, 1.5f), out(1024);
  unsigned blocks = 0;
  const simt::Watch all_in(in.data(), 4096, true), half_in(in.data() + 512, 2048),
      all_out(out.data(), 4096, true), counter(&blocks, sizeof blocks);
  launch(scale, 4, 64, in.data(), out.data(), &blocks);
  CHECK(out[1023] == 3.0f);
  CHECK(all_in.read_bytes() == 4096);
  CHECK(all_in.written_bytes() == 0);
  CHECK(all_in.max_reads_of_a_byte() == 1);
  CHECK(half_in.read_bytes() == 2048);
  CHECK(half_in.max_reads_of_a_byte() == 0);  // not asked for
  CHECK(all_out.read_bytes() == 0);
  CHECK(all_out.written_bytes() == 4096);
  CHECK(all_out.min_writes_of_a_byte() == 1);
  CHECK(all_out.max_writes_of_a_byte() == 1);
  CHECK(counter.read_bytes() == 16);
  CHECK(counter.written_bytes() == 16);
  launch(scale, 2, 64, in.data(), out.data(), &blocks);
  CHECK(all_in.read_bytes() == 6144);
  CHECK(all_in.max_reads_of_a_byte() == 2);
  CHECK(all_out.min_writes_of_a_byte() == 1);
}

DSV4_KERNEL(32) partial(const float* in, float* out) {
  const unsigned t = arch::thread_idx().x;
  // 16 bytes at an 8-byte boundary of the range below: half of it counts.
  if (t == 0) out[0] = arch::load(reinterpret_cast<const Float4*>(in))[3];
}

TEST_CASE("watch: a range that an access straddles", "[simt][watch]") {
  alignas(16) float in[8] = {};
  float out[1] = {};
  const simt::Watch tail(in + 2, 24);
  launch(partial, 1, 32, static_cast<const float*>(in), out);
  CHECK(tail.read_bytes() == 8);
}

DSV4_KERNEL(32) plain(const float* in, float* out) {
  const unsigned t = arch::thread_idx().x;
  out[t] = in[t] + in[0];
}

TEST_CASE("watch: plain accesses, in instrumented builds", "[simt][watch]") {
  std::vector<float> in(32, 1.0f), out(32);
  const simt::Watch reads(in.data(), 128, true), writes(out.data(), 128, true);
  launch(plain, 1, 32, in.data(), out.data());
  if (!simt::Watch::kSeesPlain) {
    WARN("skipped: this build does not instrument kernels");
    CHECK(reads.read_bytes() == 0);
    return;
  }
  CHECK(reads.read_bytes() == 256);
  CHECK(reads.max_reads_of_a_byte() == 33);
  CHECK(writes.written_bytes() == 128);
  CHECK(writes.max_writes_of_a_byte() == 1);
}

}  // namespace
