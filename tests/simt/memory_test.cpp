// arch/memory.cuh and arch/atomic.cuh on the machine: values, widths, atomics across OS threads, and errors.
#include <dsv4/arch/barrier.cuh>
#include <dsv4/arch/index.cuh>
#include <dsv4/arch/memory.cuh>
#include <dsv4/core/types.hpp>
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/fiber.hpp>

#include "tests/simt/policies.hpp"

#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

namespace {

using namespace dsv4;
using arch::Cache;
using arch::Order;
using arch::Scope;
using test::report_of;
using test::says;
using test::threads;

template <class T, Cache kLoad, Cache kStore>
DSV4_KERNEL(64)
copy(const T* in, T* out) {
  const unsigned t = arch::thread_idx().x;
  arch::store<kStore>(out + t, arch::load<kLoad>(in + t));
}
template <class T>
void check_copies() {
  std::vector<unsigned char> bytes(64 * sizeof(T));
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<unsigned char>(i * 37 + 11);
  std::vector<T> in(64), out(64);
  std::memcpy(in.data(), bytes.data(), bytes.size());
  const auto run = [&](void (*kernel)(const T*, T*)) {
    std::memset(static_cast<void*>(out.data()), 0, bytes.size());
    simt::launch("copy", kernel, threads(64), in.data(), out.data());
    CHECK(std::memcmp(out.data(), bytes.data(), bytes.size()) == 0);
  };
  run(copy<T, Cache::kDefault, Cache::kDefault>);
  run(copy<T, Cache::kStreaming, Cache::kStreaming>);
  run(copy<T, Cache::kReadOnly, Cache::kDefault>);
  run(copy<T, Cache::kKeep, Cache::kDefault>);
}
TEST_CASE("loads and stores move 1 to 16 bytes of any type", "[simt][memory]") {
  check_copies<e4m3>();
  check_copies<bf16>();
  check_copies<float>();
  check_copies<std::int64_t>();
  check_copies<arch::Vec<bf16, 4>>();
  check_copies<arch::Vec<float, 4>>();
  check_copies<arch::Vec<e4m3, 16>>();
  STATIC_REQUIRE(sizeof(arch::Vec<e4m3, 16>) == 16);
  STATIC_REQUIRE(alignof(arch::Vec<bf16, 8>) == 16);
}

// ---- atomics ---------------------------------------------------------------------------------------------
template <class T>
struct AtomicWords {
  T add, min, max, and_bits, or_bits, xor_bits;
};
template <class T>
DSV4_DEVICE T operand(unsigned i) {
  return static_cast<T>(i * 2654435761u) * static_cast<T>(sizeof(T) == 8 ? 0x100000001 : 1);
}
template <class T, bool kShared>
DSV4_KERNEL(64)
atomics(AtomicWords<T>* out, AtomicWords<T> start) {
  DSV4_SHARED(AtomicWords<T>, shared);
  AtomicWords<T>& w = kShared ? shared : *out;
  const unsigned t = arch::thread_idx().x;
  if (kShared) {
    if (t == 0) shared = start;
    arch::sync_threads();
  }
  const T v = operand<T>(arch::block_idx().x * 64 + t);
  arch::atomic_add(&w.add, v);
  arch::atomic_min<Order::kAcquire>(&w.min, v);
  arch::atomic_max<Order::kRelease>(&w.max, v);
  arch::atomic_and<Order::kAcqRel>(&w.and_bits, static_cast<T>(v | 0xff));
  arch::atomic_or<Order::kRelaxed, Scope::kBlock>(&w.or_bits, static_cast<T>(v & 0xff00));
  arch::atomic_xor<Order::kRelaxed, Scope::kSystem>(&w.xor_bits, v);
  if (kShared) {
    arch::sync_threads();
    if (t == 0) *out = shared;
  }
}
template <class T, bool kShared>
void check_atomics(unsigned blocks) {
  const AtomicWords<T> start{
      3, std::numeric_limits<T>::max(), std::numeric_limits<T>::lowest(), static_cast<T>(~T{0}), 0, 5};
  AtomicWords<T> expected = start, out = start;
  for (unsigned i = 0; i < 64 * blocks; ++i) {
    const T v = operand<T>(i);
    expected.add = static_cast<T>(static_cast<std::uint64_t>(expected.add) + static_cast<std::uint64_t>(v));
    expected.min = v < expected.min ? v : expected.min;
    expected.max = v > expected.max ? v : expected.max;
    expected.and_bits = static_cast<T>(expected.and_bits & (v | 0xff));
    expected.or_bits = static_cast<T>(expected.or_bits | (v & 0xff00));
    expected.xor_bits = static_cast<T>(expected.xor_bits ^ v);
  }
  simt::reset_counters();
  simt::launch("atomics", atomics<T, kShared>, threads(64, 0, blocks), &out, start);
  CHECK(std::memcmp(&out, &expected, sizeof out) == 0);
  CHECK(simt::counters().atomics == 6 * 64 * blocks);
}
TEST_CASE("integer atomics in global memory, over blocks on several OS threads, and in shared memory",
          "[simt][memory]") {
  simt::Options o = simt::options();
  o.workers = GENERATE(1, 3);
  const simt::ScopedOptions scope(o);
  check_atomics<std::uint32_t, false>(40);
  check_atomics<std::int32_t, false>(40);
  check_atomics<std::uint64_t, false>(40);
  check_atomics<std::uint32_t, true>(1);
  check_atomics<std::int32_t, true>(1);
  check_atomics<std::uint64_t, true>(1);
}

DSV4_KERNEL(64) exchanges(std::uint32_t* tickets, std::uint64_t* swapped, std::int32_t* cas, unsigned* seen) {
  const unsigned t = arch::thread_idx().x;
  arch::atomic_add(seen + arch::atomic_add(tickets, 1u), 1u);
  if (t == 7) {
    swapped[1] = arch::atomic_exch(swapped, std::uint64_t{1} << 40);
    cas[1] = arch::atomic_cas(cas, -5, 6);   // hits
    cas[2] = arch::atomic_cas(cas, -5, 99);  // finds 6
  }
}
TEST_CASE("atomics return the value before", "[simt][memory]") {
  std::uint32_t tickets = 0;
  std::uint64_t swapped[2] = {77, 0};
  std::int32_t cas[3] = {-5, 0, 0};
  std::vector<unsigned> seen(128);
  simt::launch("exchanges", exchanges, threads(64), &tickets, static_cast<std::uint64_t*>(swapped),
               static_cast<std::int32_t*>(cas), seen.data());
  for (unsigned i = 0; i < 128; ++i) CHECK(seen[i] == (i < 64 ? 1 : 0));
  CHECK(swapped[0] == std::uint64_t{1} << 40);
  CHECK(swapped[1] == 77);
  CHECK(cas[0] == 6);
  CHECK(cas[1] == -5);
  CHECK(cas[2] == 6);
}

DSV4_KERNEL(32) float_atomics(float* sum, float* tiny) {
  DSV4_SHARED(float, shared);
  const unsigned t = arch::thread_idx().x;
  if (t == 0) shared = 1e-40f;
  arch::sync_threads();
  arch::atomic_add(sum, 0.25f * static_cast<float>(t));
  if (t != 0) return;
  arch::atomic_add(tiny, -1e-40f);
  tiny[1] = arch::atomic_add(&shared, 1e-40f);
  tiny[2] = shared;
}
TEST_CASE("float atomics flush subnormals in global memory alone", "[simt][memory]") {
  float sum = 1, tiny[3] = {0, 0, 0};
  simt::launch("float_atomics", float_atomics, threads(32), &sum, static_cast<float*>(tiny));
  CHECK(sum == 125.0f);
  CHECK(tiny[0] == 0.0f);
  CHECK(tiny[1] == 1e-40f);
  CHECK(tiny[2] == 1e-40f + 1e-40f);
}

// ---- errors ----------------------------------------------------------------------------------------------
template <class T, bool kStore>
DSV4_KERNEL(32)
one_access(unsigned char* p) {
  if (arch::thread_idx().x != 3) return;
  if constexpr (kStore)
    arch::store(reinterpret_cast<T*>(p), T{});
  else
    arch::atomic_add(reinterpret_cast<unsigned*>(p), static_cast<unsigned>(arch::load(p)));
}
DSV4_KERNEL(32) global_load_of_shared(float* out) {
  DSV4_SHARED(float, s);
  *out = arch::load(&s);
}
TEST_CASE("misaligned, null and shared addresses are errors at their line", "[simt][memory]") {
  alignas(16) unsigned char bytes[48] = {};
  const auto store16 = [](unsigned char* p) {
    return report_of([&] { simt::launch("k", one_access<arch::Vec<float, 4>, true>, threads(32), p); });
  };
  const auto atomic = [](unsigned char* p) {
    return report_of([&] { simt::launch("k", one_access<unsigned, false>, threads(32), p); });
  };
  CHECK(store16(bytes + 16) == "");
  CHECK(atomic(bytes + 4) == "");
  const std::string misaligned = store16(bytes + 8);
  INFO(misaligned);
  CHECK(says(misaligned, "kernel k: st.global: address "));
  CHECK(says(misaligned, "is not aligned to 16 bytes (tests/simt/memory_test.cpp:") +
            says(misaligned, "/tests/simt/memory_test.cpp:") >
        0);
  CHECK(says(misaligned, "thread (3,0,0)"));
  CHECK(says(atomic(bytes + 2), "atom: address "));
  float out = 0;
  const std::string shared =
      report_of([&] { simt::launch("global_load_of_shared", global_load_of_shared, threads(32), &out); });
  CHECK(says(shared, "ld.global: "));
  CHECK(says(shared, "is shared memory"));
#if defined(DSV4_SIMT_ASAN)
  std::vector<unsigned char> heap(64);
  unsigned char* end = heap.data() + 64;
  CHECK(says(store16(end), "st.global: memory out of bounds: 16 bytes at "));
  CHECK(says(atomic(end), "ld.global: memory out of bounds: 1 bytes at "));
#else
  CHECK(says(store16(nullptr), "st.global: null address"));
#endif
}

}  // namespace
