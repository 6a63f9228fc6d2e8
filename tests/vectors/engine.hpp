// The primitives of include/dsv4 as an engine that reads vectors, and files of an engine's outputs.
#pragma once

#include "reference/vectors/check.hpp"

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

namespace dsv4::test::engine {

/// Outputs of one op for one problem, computed by the primitives on one host thread, in fp32 and bf16.
reference::vectors::Outputs run(const std::string& op, const reference::vectors::Problem& problem);

/// Vectors of one op in memory, as a file would hold them.
inline reference::SafetensorsFile in_memory(const std::vector<std::byte>& bytes, const std::string& name) {
  auto owned = std::make_shared<const std::vector<std::byte>>(bytes);
  return reference::SafetensorsFile::parse(*owned, name, owned);
}

/// Adds the outputs of a case to a file of outputs.
inline void add(reference::SafetensorsWriter& writer, const std::string& case_name,
                const reference::vectors::Outputs& outputs) {
  for (const auto& [name, a] : outputs) writer.add(case_name + "/" + name, a.dtype, a.shape, a.bytes);
}

}  // namespace dsv4::test::engine
