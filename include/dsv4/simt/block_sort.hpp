// Sorting for the host half of arch/block.cuh.
#pragma once

#include <cstdint>

namespace dsv4::simt {

/// Sorts threads * items pairs by the bits [begin_bit, end_bit) of the key, stably; pair i is item i % items
/// of keys[i / items] and values[i / items], the arrays of that thread. One thread calls while the others
/// wait.
void sort_pairs(std::uint32_t* const* keys, std::uint32_t* const* values, int threads, int items,
                int begin_bit, int end_bit, bool descending);

}  // namespace dsv4::simt
