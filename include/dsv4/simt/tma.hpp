// TMA and bulk copies on the SIMT machine: what the host halves of arch/tma.cuh and arch/bulk.cuh call.
#pragma once

#include <dsv4/simt/loc.hpp>

#include <cstdint>

namespace dsv4::simt {

/// What a reduction adds.
enum class Element : std::uint8_t { kOther, kF32, kBf16, kU32 };

/// A tensor in global memory and the box of it that one instruction moves. Dimension 0 is contiguous.
struct alignas(64) TensorMap {
  static constexpr std::uint32_t kMagic = 0x54454e53;

  const void* base = nullptr;
  std::uint64_t dim[5] = {}, stride[5] = {};  // stride in bytes
  std::uint32_t box[5] = {};
  std::uint8_t rank = 0, element_bytes = 0;
  std::uint8_t swizzle = 0;  // log2 of the 16-byte chunks of a row that are permuted
  Element element = {};
  std::uint32_t magic = 0;  // kMagic once encoded
};
static_assert(sizeof(TensorMap) == 128);

/// Box at coordinates c (of `rank`) into `shared`; its bytes complete at `barrier`. multicast != 0: into
/// the same place of every block of the cluster whose bit is set, completing at that block's own barrier.
void tma_load(void* shared, const TensorMap& map, void* barrier, const std::int32_t* c, int rank,
              std::uint32_t multicast, Loc loc);
/// The box from `shared` to the tensor, or added to it; part of the thread's current bulk group.
void tma_store(const TensorMap& map, const std::int32_t* c, int rank, const void* shared, bool reduce,
               Loc loc);
void tma_prefetch(const TensorMap& map, Loc loc);

void bulk_load(void* shared, const void* global, std::uint32_t bytes, void* barrier, Loc loc);
/// To the place that `shared` has in block `rank`, completing at that block's `barrier`.
void bulk_copy_to_peer(void* shared, std::uint32_t rank, const void* source, std::uint32_t bytes,
                       void* barrier, Loc loc);
/// element != kOther: added to global memory.
void bulk_store(void* global, const void* shared, std::uint32_t bytes, Element element, Loc loc);

void bulk_commit();
/// Completes all but the `groups` newest committed groups; `read_only`: as far as reading their sources.
void bulk_wait(std::uint32_t groups, bool read_only);

}  // namespace dsv4::simt
