// Random models of any configuration, in memory and as checkpoints: for tests from end to end.
#pragma once

#include "reference/model.hpp"
#include "reference/safetensors.hpp"

#include <dsv4/model_config.hpp>

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace dsv4::test {

/// The configuration of tests/data/tiny-exact (hidden 64, layers of ratio 0, 4, 128, an MTP block): a
/// starting point to change. Real sizes where kernels have them compiled in, small ones elsewhere.
ModelConfig tiny_config();

/// A model with weights scaled as in tests/data, so that activations stay of order one. Same seed, same
/// model. exact: bf16 matrices; deploy: FP8 linears, FP4 experts (FP8 where their columns are odd), the
/// rest bf16 and fp32 as published. `config` must satisfy validate().
reference::Model random_model(const ModelConfig& config, reference::NumericMode mode, std::uint64_t seed);

/// One tensor as a checkpoint stores it.
struct CheckpointTensor {
  std::string name;
  reference::DType dtype;
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};

/// Every tensor of `model` under its published name. Norms come out as BF16 where that is exact.
std::vector<CheckpointTensor> checkpoint_tensors(const reference::Model& model);

/// Writes `tensors` as one file with the configuration as metadata; with shards > 1 as a folder with that
/// many files, an index JSON and a config.json.
void write_checkpoint(const std::vector<CheckpointTensor>& tensors, const ModelConfig& config,
                      reference::NumericMode mode, const std::filesystem::path& path, int shards = 1);

/// The same for a whole model.
void write_checkpoint(const reference::Model& model, const std::filesystem::path& path, int shards = 1);

}  // namespace dsv4::test
