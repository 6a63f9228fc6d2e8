// A dense row-major tensor that owns its memory: what the stages of the forward pass hand to each other.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace dsv4::reference {

/// Up to three dimensions [d0, d1, d2]; `rows()` is d0 and a row holds d1 * d2 elements. Elements start
/// UNINITIALISED.
template <class T>
class Tensor {
 public:
  using value_type = T;

  Tensor() = default;
  explicit Tensor(std::int64_t d0, std::int64_t d1 = 1, std::int64_t d2 = 1)
      : shape_{d0, d1, d2},
        data_(std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(d0 * d1 * d2))) {}

  std::int64_t rows() const { return shape_[0]; }
  std::int64_t cols() const { return shape_[1] * shape_[2]; }
  std::int64_t dim(int i) const { return shape_[static_cast<std::size_t>(i)]; }
  std::int64_t size() const { return rows() * cols(); }
  const std::array<std::int64_t, 3>& shape() const { return shape_; }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  T* row(std::int64_t i) { return data() + i * cols(); }
  const T* row(std::int64_t i) const { return data() + i * cols(); }

 private:
  std::array<std::int64_t, 3> shape_{0, 1, 1};
  std::unique_ptr<T[]> data_;
};

}  // namespace dsv4::reference
