// Results that are computed before the stage that asks for them.
#pragma once

#include <dsv4/core/config.hpp>

#include "reference/tensor.hpp"

#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

namespace dsv4::reference::inline DSV4_FLAVOUR {

/// What one stage of a backend computed for a later one. It is used if that stage's input is what it was
/// computed from, bit for bit: a tap may have put another in its place.
template <class Value>
class Kept {
 public:
  /// stage: the weights of the stage that it waits for.
  template <class U>
  Value& keep(const void* stage, const Tensor<U>& input, Value value) {
    const auto* bytes = reinterpret_cast<const std::byte*>(input.data());
    return keep(stage, std::vector<std::byte>(bytes, bytes + input.size() * sizeof(U)), std::move(value));
  }
  Value& keep(const void* stage, std::vector<std::byte> input, Value value) {
    stage_ = stage;
    input_ = std::move(input);
    value_ = std::move(value);
    return value_;
  }
  void drop() { stage_ = nullptr; }

  /// The value, if it is good for this stage and input; else null.
  template <class U>
  Value* find(const void* stage, const Tensor<U>& input) {
    const bool good = stage_ == stage &&
                      input_.size() == static_cast<std::size_t>(input.size()) * sizeof(U) &&
                      std::memcmp(input_.data(), input.data(), input_.size()) == 0;
    return good ? &value_ : nullptr;
  }
  /// The value if it is for this stage, whatever its input will be; else null.
  Value* of(const void* stage) { return stage_ == stage ? &value_ : nullptr; }
  const std::vector<std::byte>& input() const { return input_; }

 private:
  const void* stage_ = nullptr;
  std::vector<std::byte> input_;
  Value value_{};
};

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
