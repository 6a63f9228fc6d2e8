// A model's weights where kernels can reach them.
#pragma once

#include <dsv4/core/types.hpp>
#include <dsv4/ops/common.hpp>
#include <dsv4/ops/linear.hpp>
#include <dsv4/ops/moe_experts.hpp>

#include "reference/model.hpp"
#include "reference/op_backend/memory.hpp"

#include <cstddef>
#include <map>
#include <span>
#include <vector>

namespace dsv4::reference::inline DSV4_FLAVOUR {

/// Copies each tensor to the device when it is first asked for, and keeps it there: 256-byte aligned, whereas
/// checkpoints pack tensors without gaps. A tensor is known by its address, so the model must outlive this.
/// T: activations.
template <class T>
class DeviceWeights {
 public:
  /// [n] f32.
  const float* vector(const std::vector<float>& v);
  /// A routing table.
  const std::int32_t* table(const std::vector<std::int32_t>& v);
  /// An F32 or BF16 matrix as it is. Throws std::runtime_error for others; `what` names it.
  const void* matrix(const WeightView& w, const char* what);
  static ops::DType type_of(const WeightView& w, const char* what);
  /// A matrix of a linear: BF16 and FP8 as they are; for f32 activations any, decoded to f32 (exactly).
  /// Throws std::runtime_error for what the linear ops do not take.
  ops::LinearWeight linear(const WeightView& w);
  /// All experts of a layer, or its shared expert, as they are: one buffer for each of their three matrices,
  /// and one for its scales. Throws std::runtime_error if experts differ in the type of a matrix.
  ops::ExpertWeights experts(std::span<const ExpertWeights> list);

 private:
  // Matrices of a list of experts, one of each, behind one another.
  struct Packed {
    DeviceMemory data, scales;
    ops::ExpertMatrix view;
  };

  const std::byte* copy(const void* host, std::size_t bytes);
  ops::ExpertMatrix pack(std::span<const ExpertWeights> list, WeightView ExpertWeights::*which);

  std::map<const void*, DeviceMemory> copies_;   // by where they lie on the host
  std::map<const void*, DeviceMemory> decoded_;  // f32 copies of matrices
  std::map<const void*, Packed> packed_;         // by where the first expert's lies on the host
};

extern template class DeviceWeights<float>;
extern template class DeviceWeights<bf16>;

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
