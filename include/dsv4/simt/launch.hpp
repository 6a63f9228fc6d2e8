// Running a kernel on the SIMT machine.
#pragma once

#include <dsv4/core/status.hpp>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>

namespace dsv4::simt {

/// What the machine throws when a kernel breaks a rule: kernel, block, thread, warp and lane, file and line,
/// and what went wrong (WARP DIVERGENCE, BARRIER MISMATCH, DEADLOCK, LIVELOCK, RACE, ...). The launch is
/// abandoned: memory that it wrote stays written, objects on its threads' stacks are not destroyed.
struct KernelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct Index3 {
  unsigned x = 1, y = 1, z = 1;
  friend bool operator==(const Index3&, const Index3&) = default;
};

struct LaunchShape {
  Index3 grid = {}, block = {}, cluster = {};
  std::size_t shared_bytes = 0;  // dynamic shared memory of a block
  bool cooperative = false;      // every block of the grid is resident at once
};

/// A kernel with its arguments, without their types.
struct Launch {
  const char* name = "";
  LaunchShape shape;
  void (*call)(const void* arguments) = nullptr;
  const void* arguments = nullptr;
};

/// Executes the launch to its end, its blocks spread over the machine's OS threads. Throws KernelError; one
/// launch runs at a time, others wait.
void run(const Launch& launch);

/// Executes kernel(arguments...) over the shape's grid. Arguments are copied once, as by a real launch.
template <class... P, class... A>
void launch(const char* name, void (*kernel)(P...), const LaunchShape& shape, A&&... arguments) {
  static_assert(sizeof...(P) == sizeof...(A), "launch: the number of the kernel's parameters");
  struct Pack {
    void (*kernel)(P...);
    std::tuple<std::remove_cvref_t<P>...> arguments;
  } pack{kernel, {static_cast<std::remove_cvref_t<P>>(std::forward<A>(arguments))...}};
  run({name, shape,
       [](const void* p) {
         const auto* self = static_cast<const Pack*>(p);
         std::apply(self->kernel, self->arguments);
       },
       &pack});
}

/// Status of a launch that failed with `report`: code kCuda, `what` = the report, kept until this thread's
/// next failure.
Status failed_launch(const char* report) noexcept;

/// Calls f(), which launches; a KernelError, or lack of memory, becomes a Status.
template <class F>
Status launch_status(F&& f) noexcept {
  try {
    f();
    return {};
  } catch (const std::exception& e) {
    return failed_launch(e.what());
  }
}

}  // namespace dsv4::simt
