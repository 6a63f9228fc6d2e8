#include "reference/op_backend/op_call.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

namespace dsv4::reference::inline DSV4_FLAVOUR {

void* OpCall::place(const void* host, std::size_t bytes, bool read, bool result) {
  const auto known =
      std::find_if(arrays_.begin(), arrays_.end(), [host](const Array& a) { return a.host == host; });
  if (host != nullptr && known != arrays_.end()) {
    if (known->memory.bytes() != bytes) throw std::logic_error("an array named twice, with two sizes");
    known->result = known->result || result;
    return known->memory.data();
  }
  Array& array = arrays_.emplace_back(Array{host, DeviceMemory(bytes), result});
  if (read) array.memory.write(host, bytes);
  return array.memory.data();
}

void* OpCall::workspace(std::size_t bytes) {
  if (bytes == 0) return nullptr;
  return workspaces_.emplace_back(bytes).data();
}

void OpCall::run(const Status& status, const char* op) {
  if (!status.ok())
    throw std::runtime_error(
        fmt::format("op {}: {} (value {}, limit {})", op, status.what, status.value, status.limit));
  for (const Array& array : arrays_)
    if (array.result) array.memory.read(const_cast<void*>(array.host), array.memory.bytes());
}

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
