// Workspaces of ops: one walk over the parts gives both the size that a caller must provide and the pointers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

namespace dsv4 {

/// Alignment of a workspace and of each part of it, bytes: what cudaMalloc gives.
inline constexpr std::size_t kWorkspaceAlignment = 256;

/// Walks over the parts of a workspace. An op writes its walk once, as a function of the parameters, and runs
/// it twice: over no memory, for bytes(), and over the caller's, for the pointers; so the two cannot differ.
///     Workspace w(base_or_null);
///     parts.sums = w.take<float>(tokens * 32);
///     parts.flags = w.take<std::uint32_t>(tokens);
///     return w.bytes();
/// Sizes saturate at SIZE_MAX instead of wrapping, so that no caller's buffer is ever large enough for them.
class Workspace {
 public:
  /// `base_or_null`: the memory, aligned to kWorkspaceAlignment (checked by the op); null = sizes alone.
  constexpr explicit Workspace(void* base_or_null = nullptr) : base_(static_cast<std::byte*>(base_or_null)) {}

  /// Room for `count` >= 0 elements of T, which may be 0; null where there is no memory. Uninitialised.
  template <class T>
  constexpr T* take(std::int64_t count) {
    static_assert(alignof(T) <= kWorkspaceAlignment, "Workspace: parts are 256-byte aligned");
    constexpr std::size_t kMax = std::numeric_limits<std::size_t>::max();
    constexpr std::size_t kLargest = (kMax - kWorkspaceAlignment) / sizeof(T);
    const std::size_t begin = bytes_;
    const auto n = static_cast<std::size_t>(count);
    // Whole 256-byte units, so that the next part is aligned too.
    const std::size_t part =
        n > kLargest ? kMax
                     : (n * sizeof(T) + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
    bytes_ = part > kMax - begin ? kMax : begin + part;
    return base_ != nullptr && bytes_ != kMax ? reinterpret_cast<T*>(base_ + begin) : nullptr;
  }

  /// Bytes of the parts taken so far.
  constexpr std::size_t bytes() const { return bytes_; }

 private:
  std::byte* base_;
  std::size_t bytes_ = 0;
};

}  // namespace dsv4
