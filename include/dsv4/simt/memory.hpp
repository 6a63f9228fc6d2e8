// Memory accesses that arch/memory.cuh hands to the machine: checked, counted, ordered.
#pragma once

#include <dsv4/simt/loc.hpp>

#include <cstddef>
#include <cstdint>

namespace dsv4::simt {

enum class Scope : std::uint8_t { kBlock, kCluster, kDevice, kSystem };
enum class Order : std::uint8_t { kRelaxed, kAcquire, kRelease, kAcqRel };
enum class Rmw : std::uint8_t { kAdd, kAddF32, kMinU, kMaxU, kMinS, kMaxS, kAnd, kOr, kXor, kExchange, kCas };

// Global memory; bytes is 1, 2, 4, 8 or 16, and p aligned to it.
void load(void* value, const void* p, std::size_t bytes, bool read_only, Loc loc);
void store(void* p, const void* value, std::size_t bytes, Loc loc);

// Global or shared memory; bytes is 4 or 8. An acquire or relaxed load that keeps finding the same value lets
// other threads run.
std::uint64_t atomic_load(const void* p, std::size_t bytes, Order order, Scope scope, Loc loc);
void atomic_store(void* p, std::uint64_t value, std::size_t bytes, Order order, Scope scope, Loc loc);
/// *p = op(*p, operand); kCas: *p = operand if it is `expected`. Returns the former *p.
std::uint64_t atomic_rmw(Rmw op, void* p, std::uint64_t operand, std::uint64_t expected, std::size_t bytes,
                         Order order, Scope scope, Loc loc);
void fence(Scope scope);
/// p is in reach of a kernel (nothing is fetched).
void prefetch(const void* p, Loc loc);
void nanosleep(Loc loc);

/// For instructions that copy (cp.async, TMA): checks that [p, p + bytes) may be accessed (ASan) and counts
/// it for simt::Watch. Any thread of the machine.
void note_global(const void* p, std::size_t bytes, bool write, const char* name, Loc loc);

}  // namespace dsv4::simt
