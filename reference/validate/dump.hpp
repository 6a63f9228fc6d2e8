// Writes what a forward pass computed in a recording's format.
#pragma once

#include "reference/safetensors.hpp"
#include "reference/validate/recording.hpp"

#include <cstdint>
#include <filesystem>
#include <span>
#include <string_view>
#include <vector>

namespace dsv4::reference::validation {

/// Collects the tensors of a run in memory and writes them as one file.
class Dump {
 public:
  /// Takes over configuration and the inputs of the first `calls` calls of `recording` (outlives the dump).
  Dump(const Recording& recording, std::int64_t calls);

  /// One tap of one call, of the shape that the plan gives it; `columns` stands for the shape's any.
  template <class U>
  void add(const Call& call, const PlannedTap& tap, std::span<const U> elements, std::int64_t columns = 0) {
    std::vector<std::int64_t> shape = recording_.plan.shape(tap, call.span());
    if (!shape.empty() && shape.back() < 0) shape.back() = columns;
    writer_.add<U>(call.prefix() + tap.name, std::move(shape), elements);
  }

  void write(const std::filesystem::path& path) const { writer_.write(path); }
  std::vector<std::byte> bytes() const { return writer_.bytes(); }

 private:
  const Recording& recording_;
  SafetensorsWriter writer_;
};

}  // namespace dsv4::reference::validation
