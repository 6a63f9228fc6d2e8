// Tensor maps: boxes of up to five dimensions between global memory and (swizzled) shared memory.
#include <dsv4/simt/memory.hpp>
#include <dsv4/simt/tma.hpp>

#include "simt/machine.hpp"

#include <array>
#include <cstring>

namespace dsv4::simt {
namespace {

using Coordinates = std::array<std::int32_t, 5>;

std::uint32_t box_bytes(const TensorMap& m) {
  std::uint32_t n = m.element_bytes;
  for (int i = 0; i < m.rank; ++i) n *= m.box[i];
  return n;
}

Coordinates check(const TensorMap& m, const std::int32_t* c, int rank, std::uint32_t address,
                  const char* name, Loc loc) {
  // AArch64 passes a copy of a map on a 16-byte boundary, whatever the type's alignment.
#if defined(__aarch64__)
  constexpr std::uintptr_t kAlign = 16;
#else
  constexpr std::uintptr_t kAlign = 64;
#endif
  if (reinterpret_cast<std::uintptr_t>(&m) % kAlign != 0 || m.magic != TensorMap::kMagic)
    fail("%s: %p is not a tensor map (%s:%u)", name, static_cast<const void*>(&m), loc.file, loc.line);
  if (rank != m.rank)
    fail("%s: %d coordinates for a tensor map of rank %d (%s:%u)", name, rank, m.rank, loc.file, loc.line);
  if (address % 128)
    fail("%s: shared address 0x%x is not a multiple of 128 (%s:%u)", name, address, loc.file, loc.line);
  Coordinates out{};
  for (int i = 0; i < rank; ++i) out[static_cast<std::size_t>(i)] = c[i];
  return out;
}

// Address bits 4, 5 and 6 are XORed with bits 7, 8 and 9, as many as the mode permutes.
std::uint32_t swizzled(std::uint8_t mode, std::uint32_t address) {
  return address ^ ((address >> 3) & (((16u << mode) - 1) & 0x70u));
}

// Calls piece(global bytes, null where outside the tensor, shared address, bytes) for the pieces of a box,
// each within 16 bytes of shared memory.
template <class Piece>
void for_each_piece(const TensorMap& m, const Coordinates& c, std::uint32_t address, Piece&& piece) {
  std::uint32_t box[5] = {1, 1, 1, 1, 1};
  for (int i = 0; i < m.rank; ++i) box[i] = m.box[i];
  const std::uint32_t row_bytes = box[0] * m.element_bytes;
  const std::uint32_t rows = box[1] * box[2] * box[3] * box[4];
  const auto width = static_cast<std::int64_t>(m.dim[0]);
  for (std::uint32_t r = 0; r < rows; ++r) {
    const std::uint32_t at[5] = {0, r % box[1], r / box[1] % box[2], r / box[1] / box[2] % box[3],
                                 r / box[1] / box[2] / box[3]};
    bool inside = true;
    auto* row = static_cast<std::byte*>(const_cast<void*>(m.base));
    for (std::size_t d = 1; d < m.rank; ++d) {
      const std::int64_t x = std::int64_t{c[d]} + at[d];
      inside = inside && x >= 0 && x < static_cast<std::int64_t>(m.dim[d]);
      if (inside) row += x * static_cast<std::int64_t>(m.stride[d]);
    }
    for (std::uint32_t o = 0; o < row_bytes; o += 16) {
      const std::uint32_t to = swizzled(m.swizzle, address + r * row_bytes + o);
      const std::int64_t x = std::int64_t{c[0]} + o / m.element_bytes;
      const std::uint32_t elements = 16u / m.element_bytes;
      if (inside && x >= 0 && x + elements <= width) {
        piece(row + x * m.element_bytes, to, 16u);
        continue;
      }
      for (std::uint32_t e = 0; e < elements; ++e) {
        const bool is_there = inside && x + e >= 0 && x + e < width;
        piece(is_there ? row + (x + e) * m.element_bytes : nullptr, to + e * m.element_bytes,
              std::uint32_t{m.element_bytes});
      }
    }
  }
}

}  // namespace

void tma_load(void* shared, const TensorMap& map, void* barrier, const std::int32_t* c, int rank,
              std::uint32_t multicast, Loc loc) {
  const char* name = multicast ? "TMA multicast load" : "TMA load";
  Thread& t = *current;
  Block& mine = *t.block;
  const std::uint32_t address = shared_address(shared, name, loc);
  const std::uint32_t barrier_address = shared_address(barrier, name, loc);
  const Coordinates at = check(map, c, rank, address, name, loc);
  ++mine.gang->counters.tma;
  race::Clock issued;
  if constexpr (race::kEnabled) issued = race::snapshot(t);
  for_each_piece(map, at, address, [&](const std::byte* global, std::uint32_t, std::uint32_t bytes) {
    if (!global) return;
    note_global(global, bytes, false, name, loc);
    if constexpr (race::kEnabled) race::async_global_access(t, issued, global, bytes, false, loc);
  });
  const auto load_into = [&](Block& b) {
    check_copy_into_shared(b, address, box_bytes(map), barrier_address, name, loc);
    copy_into_shared(b, address, box_bytes(map), barrier_address, loc, [&b, map, at, address] {
      for_each_piece(map, at, address, [&b](const std::byte* global, std::uint32_t to, std::uint32_t bytes) {
        std::byte* p = b.shared + (to - kSharedWindow);
        if (global)
          std::memcpy(p, global, bytes);
        else
          std::memset(p, 0, bytes);
      });
    });
  };
  if (!multicast) return load_into(mine);
  for (std::uint32_t m = multicast; m; m &= m - 1)
    load_into(peer_block(static_cast<std::uint32_t>(__builtin_ctz(m)), name, loc));
}

void tma_store(const TensorMap& map, const std::int32_t* c, int rank, const void* shared, bool reduce,
               Loc loc) {
  const char* name = reduce ? "TMA reduction" : "TMA store";
  Thread& t = *current;
  const std::uint32_t address = shared_address(shared, name, loc);
  const Coordinates at = check(map, c, rank, address, name, loc);
  if (reduce && map.element == Element::kOther)
    fail("%s: the tensor map's elements are not f32, bf16 or u32 (%s:%u)", name, loc.file, loc.line);
  const Element element = reduce ? map.element : Element::kOther;
  ++t.block->gang->counters.tma;
  for_each_piece(map, at, address, [&](const std::byte* global, std::uint32_t, std::uint32_t bytes) {
    if (global) report_store(t, global, bytes, element, name, loc);
  });
  shared_pointer(*t.block, address, box_bytes(map), name, loc);
  store_from_shared(address, box_bytes(map), loc, [=](const std::byte* source) {
    for_each_piece(map, at, address, [&](std::byte* global, std::uint32_t from, std::uint32_t bytes) {
      if (!global) return;
      if (reduce)
        add_to_global(global, source + (from - address), bytes, element);
      else
        std::memcpy(global, source + (from - address), bytes);
    });
  });
}

void tma_prefetch(const TensorMap& map, Loc loc) {
  if (map.magic != TensorMap::kMagic)
    fail("prefetch.tensormap: %p is not a tensor map (%s:%u)", static_cast<const void*>(&map), loc.file,
         loc.line);
}

}  // namespace dsv4::simt
