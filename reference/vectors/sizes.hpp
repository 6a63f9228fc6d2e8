// Sizes that the vectors are made for: those of a configuration, and a tiny one.
#pragma once

#include <dsv4/model_config.hpp>

#include <string>

namespace dsv4::reference::vectors {

using Sizes = ModelConfig;

/// A small model of the architecture: the published vectors of tests/data, complete in under 2 MB.
Sizes tiny_sizes();

/// "tiny", "flash", "pro", or the path of a config.json. Throws InputError.
Sizes sizes_of(const std::string& config);

}  // namespace dsv4::reference::vectors
