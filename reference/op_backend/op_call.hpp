// One call of an op: the host's arrays where kernels can reach them, and back.
#pragma once

#include <dsv4/core/status.hpp>
#include <dsv4/core/stream.hpp>

#include "reference/op_backend/memory.hpp"
#include "reference/tensor.hpp"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <vector>

namespace dsv4::reference::inline DSV4_FLAVOUR {

/// Parameters of one call (or of several that follow one another). Every array named is given a copy on the
/// device, the same one each time it is named; `run` copies those named as results back. A kernel thus cannot
/// reach what it was not given.
class OpCall {
 public:
  static constexpr Stream kStream = nullptr;

  /// Read by the op.
  template <class U>
  const U* in(const U* host, std::int64_t count) {
    return static_cast<const U*>(place(host, bytes_of<U>(count), true, false));
  }
  template <class U>
  const U* in(const std::vector<U>& host) {
    return in(host.data(), static_cast<std::int64_t>(host.size()));
  }
  template <class U>
  const U* in(const Tensor<U>& host) {
    return in(host.data(), host.size());
  }
  /// Written by the op, all of it; full of NaNs before.
  template <class U>
  U* out(U* host, std::int64_t count) {
    return static_cast<U*>(place(host, bytes_of<U>(count), false, true));
  }
  template <class U>
  U* out(std::vector<U>& host) {
    return out(host.data(), static_cast<std::int64_t>(host.size()));
  }
  template <class U>
  U* out(Tensor<U>& host) {
    return out(host.data(), host.size());
  }
  /// Written by the op in part, or read and written.
  template <class U>
  U* in_out(U* host, std::int64_t count) {
    return static_cast<U*>(place(host, bytes_of<U>(count), true, true));
  }
  template <class U>
  U* in_out(std::vector<U>& host) {
    return in_out(host.data(), static_cast<std::int64_t>(host.size()));
  }
  template <class U>
  U* in_out(Tensor<U>& host) {
    return in_out(host.data(), host.size());
  }

  /// 256-byte aligned; null for none.
  void* workspace(std::size_t bytes);

  /// Takes the op's outcome. Throws std::runtime_error with the op's words, the machine's report among them,
  /// if it failed; else copies the results back.
  void run(const Status& status, const char* op);

 private:
  struct Array {
    const void* host;
    DeviceMemory memory;
    bool result;
  };

  template <class U>
  static std::size_t bytes_of(std::int64_t count) {
    return static_cast<std::size_t>(count) * sizeof(U);
  }
  void* place(const void* host, std::size_t bytes, bool read, bool result);

  std::deque<Array> arrays_;  // addresses stay
  std::deque<DeviceMemory> workspaces_;
};

}  // namespace dsv4::reference::inline DSV4_FLAVOUR
