#include "reference/op_backend/device_weights.hpp"

#include <fmt/format.h>

#include <stdexcept>
#include <type_traits>

namespace dsv4::reference::inline DSV4_FLAVOUR {

namespace {

constexpr std::int64_t blocks(std::int64_t n) {
  return (n + quant::kFp8LinearBlock - 1) / quant::kFp8LinearBlock;
}

}  // namespace

template <class T>
const std::byte* DeviceWeights<T>::copy(const void* host, std::size_t bytes) {
  const auto [it, added] = copies_.try_emplace(host, bytes);
  if (added) it->second.write(host, bytes);
  return it->second.data();
}

template <class T>
const float* DeviceWeights<T>::vector(const std::vector<float>& v) {
  return reinterpret_cast<const float*>(copy(v.data(), v.size() * sizeof(float)));
}

template <class T>
ops::DType DeviceWeights<T>::type_of(const WeightView& w, const char* what) {
  if (w.type == linear::WeightType::kF32) return ops::DType::kF32;
  if (w.type == linear::WeightType::kBf16) return ops::DType::kBf16;
  throw std::runtime_error(fmt::format("{}: ops read it as F32 or BF16", what));
}

template <class T>
const void* DeviceWeights<T>::matrix(const WeightView& w, const char* what) {
  const std::int64_t size = type_of(w, what) == ops::DType::kF32 ? 4 : 2;
  return copy(w.data, static_cast<std::size_t>(w.rows * w.cols * size));
}

template <class T>
ops::LinearWeight DeviceWeights<T>::linear(const WeightView& w) {
  const auto count = static_cast<std::size_t>(w.rows * w.cols);
  if constexpr (std::is_same_v<T, float>) {
    const auto [it, added] = decoded_.try_emplace(w.data, count * sizeof(float));
    if (added) {
      std::vector<float> rows(count);
      dsv4::linear::visit(w, [&](const auto& matrix) {
        for (std::int64_t n = 0; n < w.rows; ++n)
          matrix.decode(rows.data() + n * w.cols, n, 0, static_cast<int>(w.cols));
      });
      it->second.write(rows.data(), count * sizeof(float));
    }
    return {.data = it->second.data(), .format = ops::WeightFormat::kF32};
  } else {
    switch (w.type) {
      case dsv4::linear::WeightType::kBf16:
        return {.data = copy(w.data, count * sizeof(bf16)), .format = ops::WeightFormat::kBf16};
      case dsv4::linear::WeightType::kFp8:
        return {.data = copy(w.data, count),
                .scales = copy(w.scale, static_cast<std::size_t>(blocks(w.rows) * blocks(w.cols))),
                .format = ops::WeightFormat::kFp8};
      case dsv4::linear::WeightType::kF32:
      case dsv4::linear::WeightType::kFp4:
        break;
    }
    throw std::runtime_error("a linear of the attention half: ops read its weights as BF16 or FP8");
  }
}

template class DeviceWeights<float>;
template class DeviceWeights<bf16>;

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
