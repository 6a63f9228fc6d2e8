// Device memory of the SIMT machine: the host's.
#include "reference/op_backend/memory.hpp"

#include <cstring>
#include <new>

namespace dsv4::reference::inline DSV4_FLAVOUR {

namespace {
constexpr std::align_val_t kAlign{256};
}

void require_device() {}

DeviceMemory::DeviceMemory(std::size_t bytes)
    : data_(static_cast<std::byte*>(::operator new(bytes, kAlign))), bytes_(bytes) {
  std::memset(data_, 0xff, bytes);
}

DeviceMemory::~DeviceMemory() { ::operator delete(data_, kAlign); }

void DeviceMemory::write(const void* host, std::size_t bytes) {
  if (bytes > 0) std::memcpy(data_, host, bytes);
}

void DeviceMemory::read(void* host, std::size_t bytes) const {
  if (bytes > 0) std::memcpy(host, data_, bytes);
}

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
