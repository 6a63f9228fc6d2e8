// A model's configuration from JSON, under published or inference names, and back.
#pragma once

#include "reference/model.hpp"

#include <dsv4/model_config.hpp>

#include <string>
#include <string_view>

namespace dsv4::reference {

struct ParsedConfig {
  ModelConfig config;
  NumericMode mode = NumericMode::kDeploy;  // "mode"; kDeploy when absent, as in published files
  bool tie_word_embeddings = false;         // the head may be missing: it is the embedding
};

/// Reads a config.json: names of the published checkpoints (hidden_size, num_hidden_layers, ...) or of the
/// inference code (dim, n_layers, ...; the recordings use these). Keys the model does not need are ignored.
///   source  file the text came from, for messages (already printable)
/// Throws InputError, one line naming source, key, value and rule: invalid JSON, a missing or mistyped key,
/// two spellings of a key that disagree, whatever dsv4::validate refuses, and models of another
/// architecture (V4.1, DSpark), which it names. The result satisfies dsv4::validate.
ParsedConfig parse_config(std::string_view json, const std::string& source);

/// The same under inference names; parse_config gives back what went in.
std::string config_to_json(const ModelConfig& config, NumericMode mode);

/// First field in which two configurations differ in what they compute, as "hidden_size is 64, expected
/// 128"; empty when there is none. max_positions does not count.
std::string difference(const ModelConfig& config, const ModelConfig& expected);

}  // namespace dsv4::reference
