// Memory that kernels of this flavour read and write. The SIMT machine's is the host's own, yet ops never see
// the backend's tensors: what a device needs copied is copied for the machine too, so that a missing copy
// fails on both.
#pragma once

#include <dsv4/core/config.hpp>

#include <cstddef>

namespace dsv4::reference::inline DSV4_FLAVOUR {

/// Throws InputError, in one line, where this flavour's kernels cannot run.
void require_device();

/// Bytes that kernels can reach, 256-byte aligned, freed with this. They start as 0xff, a NaN in every format
/// of the library: results that were not written are seen. Throws std::runtime_error where the device
/// refuses.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes);
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& o) noexcept : data_(o.data_), bytes_(o.bytes_) { o.data_ = nullptr; }
  DeviceMemory& operator=(DeviceMemory&&) = delete;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }

  /// Copies the first `bytes` from, or to, host memory. `read` waits for the kernels launched before.
  void write(const void* host, std::size_t bytes);
  void read(void* host, std::size_t bytes) const;

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
