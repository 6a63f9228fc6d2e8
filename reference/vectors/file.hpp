// A file of vectors: what one op must compute, as a safetensors file.
//
//     CASE/in/NAME     inputs
//     CASE/out/NAME    what the op must give
//     CASE/bound/NAME  f32, one a value: how far from it the result may lie; inf = anything. None: exactly
//
// Metadata: "format", "op", "about", "config", "seed", "cases" (their names), and under "case.CASE" an
// object: "catches", "scalars", "outputs" (the form of each: problem.hpp), "same_as" and "same_row".
#pragma once

#include "reference/vectors/problem.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace dsv4::reference::vectors {

/// An output to compare with.
struct Expected {
  std::string name;
  Form form = Form::kPlain;
  std::string paired_with;
  Array array;
  std::vector<float> bound;  // of each decoded value; empty = all 0
};

/// The intervals of an output as bounds around what it stores, rounded up to f32.
Expected expected_of(const Output& output);

struct StoredCase {
  Case given;
  std::vector<Expected> outputs;
};

struct VectorFile {
  std::string name;  // of the file, as messages print it
  const Op* op = nullptr;
  std::string config;
  std::uint64_t seed = 0;
  std::vector<StoredCase> cases;
};

/// The bytes of an op's file: the same for the same arguments, on every machine.
///   config  what to call the sizes, in the metadata
std::vector<std::byte> vectors_bytes(const Op& op, const Sizes& sizes, const std::string& config,
                                     std::uint64_t seed);

/// Throw InputError for a file that is no complete file of vectors.
VectorFile parse_vectors(const SafetensorsFile& file);
VectorFile read_vectors(const std::filesystem::path& path);

}  // namespace dsv4::reference::vectors
