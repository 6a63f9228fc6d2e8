// libFuzzer target: the safetensors reader, the configuration reader and the checkpoint loader.
#include "fuzz/safetensors_entry.hpp"

#include <cstddef>
#include <cstdint>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  dsv4_fuzz_safetensors(data, size);
  return 0;
}
