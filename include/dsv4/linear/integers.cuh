// Tensors of positions, slots and token ids, which engines keep as int32 or as int64.
#pragma once

#include <dsv4/arch/config.cuh>

#include <cstdint>

namespace dsv4::linear::inline DSV4_FLAVOUR {

struct Integers {
  const void* data;  // int32 or int64
  bool wide;         // int64

  DSV4_DEVICE std::int64_t operator[](std::int64_t i) const {
    return wide ? static_cast<const std::int64_t*>(data)[i] : static_cast<const std::int32_t*>(data)[i];
  }
};

using Positions = Integers;  // [tokens]
using Slots = Integers;      // a negative one, or one beyond its pool, means "no row"

}  // namespace dsv4::linear::inline DSV4_FLAVOUR
