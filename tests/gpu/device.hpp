// What compare.cpp needs of a device. device.cpp has it of CUDA; tests/c_api/no_device.cpp throws, for
// programs that never have kDevice as a side.
#pragma once

#include <dsv4/core/status.hpp>
#include <dsv4/core/stream.hpp>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace dsv4::gpu::device {

std::shared_ptr<void> allocate(std::size_t bytes);
void copy_to(void* device, const void* host, std::size_t bytes);
void copy_from(void* host, const void* device, std::size_t bytes, const char* what);
void synchronise(const char* what);

/// A launch captured once, on a stream of its own; calling the result replays it, and waits.
using Replayed = std::function<Status(const std::string& title)>;
Replayed capture(const std::function<Status(Stream)>& launch);

}  // namespace dsv4::gpu::device
