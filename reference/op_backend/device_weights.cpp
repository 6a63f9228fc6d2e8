#include "reference/op_backend/device_weights.hpp"

#include <fmt/format.h>

#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace dsv4::reference::inline DSV4_FLAVOUR {

namespace {

constexpr std::int64_t blocks(std::int64_t n) {
  return (n + quant::kFp8LinearBlock - 1) / quant::kFp8LinearBlock;
}

// How the experts' ops take a matrix, and what it takes in memory.
struct Stored {
  ops::WeightFormat format;
  std::int64_t bytes, scale_bytes;
};
Stored stored(const WeightView& w) {
  const std::int64_t count = w.rows * w.cols;
  switch (w.type) {
    case linear::WeightType::kF32:
      return {ops::WeightFormat::kF32, count * 4, 0};
    case linear::WeightType::kBf16:
      return {ops::WeightFormat::kBf16, count * 2, 0};
    case linear::WeightType::kFp8:
      return {ops::WeightFormat::kFp8, count, blocks(w.rows) * blocks(w.cols)};
    case linear::WeightType::kFp4:
      return {ops::WeightFormat::kFp4, count / 2, count / quant::kFp4Block};
  }
  throw std::logic_error("a weight type that is none");
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
const std::int32_t* DeviceWeights<T>::table(const std::vector<std::int32_t>& v) {
  return reinterpret_cast<const std::int32_t*>(copy(v.data(), v.size() * sizeof(std::int32_t)));
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

template <class T>
ops::ExpertMatrix DeviceWeights<T>::pack(std::span<const ExpertWeights> list,
                                         WeightView ExpertWeights::*which) {
  const WeightView& first = list.front().*which;
  if (const auto known = packed_.find(first.data); known != packed_.end()) return known->second.view;

  // Apart, so that strides are taken and no expert begins where its neighbour ends.
  constexpr std::int64_t kAlign = 256;
  const auto stride_of = [](std::int64_t bytes) { return bytes > 0 ? (bytes / kAlign + 1) * kAlign : 0; };
  const auto [format, bytes, scale_bytes] = stored(first);
  const std::int64_t stride = stride_of(bytes), scale_stride = stride_of(scale_bytes);
  // What lies between is 0xff, NaNs.
  std::vector<std::byte> data(list.size() * static_cast<std::size_t>(stride), std::byte{0xff}),
      scales(list.size() * static_cast<std::size_t>(scale_stride), std::byte{0xff});
  for (std::size_t e = 0; e < list.size(); ++e) {
    const WeightView& w = list[e].*which;
    if (w.type != first.type) throw std::runtime_error("experts of one layer: ops read them in one format");
    std::memcpy(data.data() + e * static_cast<std::size_t>(stride), w.data, static_cast<std::size_t>(bytes));
    if (scale_bytes > 0)
      std::memcpy(scales.data() + e * static_cast<std::size_t>(scale_stride), w.scale,
                  static_cast<std::size_t>(scale_bytes));
  }
  Packed packed{DeviceMemory(data.size()), DeviceMemory(scales.size()), {}};
  packed.data.write(data.data(), data.size());
  packed.scales.write(scales.data(), scales.size());
  packed.view = {.data = packed.data.data(),
                 .scales = scale_bytes > 0 ? packed.scales.data() : nullptr,
                 .format = format,
                 .expert_stride = stride,
                 .scales_expert_stride = scale_stride};
  return packed_.emplace(first.data, std::move(packed)).first->second.view;
}

template <class T>
ops::ExpertWeights DeviceWeights<T>::experts(std::span<const ExpertWeights> list) {
  return {.w1 = pack(list, &ExpertWeights::w1),
          .w3 = pack(list, &ExpertWeights::w3),
          .w2 = pack(list, &ExpertWeights::w2)};
}

template class DeviceWeights<float>;
template class DeviceWeights<bf16>;

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
