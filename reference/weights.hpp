// From checkpoint files to a Model: names, dtypes and shapes checked against the configuration before use.
#pragma once

#include "reference/model.hpp"
#include "reference/safetensors.hpp"

#include <dsv4/model_config.hpp>

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace dsv4::reference {

/// Loads a checkpoint. Large matrices stay in the mapped files (Model::storage keeps them); only vectors,
/// routing tables, scales that come as F32 and matrices misaligned in their file are copied.
///   path              a .safetensors file, an index JSON, or a folder with either
///   expected_or_null  configuration the checkpoint must have; it serves as the configuration where the
///                     checkpoint brings none
///   ignored_or_null   receives the names of the tensors the model does not use
/// The configuration is the metadata key "config" or the config.json beside the files. Throws InputError,
/// one line naming file, tensor and reason, for every tensor that is missing, given twice (under two
/// spellings) or of the wrong dtype or shape, for an expert id out of range, for tensors that contradict the
/// configuration and for V4.1 and DSpark checkpoints.
Model load_model(const std::filesystem::path& path, const ModelConfig* expected_or_null = nullptr,
                 std::vector<std::string>* ignored_or_null = nullptr);

/// The same from files that are open already.
Model load_model(const Checkpoint& checkpoint, const ModelConfig* expected_or_null = nullptr,
                 std::vector<std::string>* ignored_or_null = nullptr);

/// Name of the published checkpoint ("layers.0.attn.wq_a.scale") for a tensor spelled in one of the other
/// ways ("model.layers.0.self_attn.q_a_proj.weight_scale_inv"); other names come back with their "model."
/// prefix dropped.
std::string canonical_name(std::string_view name);

}  // namespace dsv4::reference
