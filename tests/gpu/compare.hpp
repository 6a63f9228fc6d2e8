// One call of an op on both sides: the same operands in host memory for the SIMT machine and in device memory
// for the GPU, and a comparison of everything that it wrote. Without a GPU the second side can be the SIMT
// machine once more, under another schedule and with a tensor core that rounds as hardware does: that shows
// that the cases are legal, that their bounds hold for such rounding, and that this file finds differences.
// Or it is any other table of ops on the host (tests/c_api has one), which must give the same bits.
#pragma once

#include <dsv4/core/status.hpp>
#include <dsv4/core/types.hpp>

#include "tests/gpu/device.hpp"
#include "tests/gpu/op_table.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace dsv4::gpu {

/// How far two results may lie apart: |a - b| <= absolute + relative * max(|a|, |b|) for every element, and
/// at most share of them with other bits at all. The default is "the same bits".
struct Agreement {
  double absolute = 0, relative = 0, share = 0;
};
inline constexpr Agreement kSameBits = {};

/// What differs between two results of `bytes` bytes, the machine's and the other side's, or "".
using Compare = std::function<std::string(const void* reference, const void* other, std::size_t bytes)>;

/// Element by element as T (float, bf16, std::int32_t, std::uint8_t), within an agreement.
template <class T>
Compare agree(const Agreement& agreement);

/// Numbers likewise; a NaN agrees with any NaN, and with nothing else.
Compare agree_or_nan(const Agreement& agreement);

enum class Side { kReference, kHost, kImitation, kDevice };

/// The operands of one call, in host or in device memory.
class Operands {
 public:
  explicit Operands(Side side) : side_(side) {}

  bool is_reference() const { return side_ == Side::kReference; }

  template <class T>
  T* in(const std::vector<T>& values) {
    return static_cast<T*>(place(values.data(), values.size() * sizeof(T)));
  }
  /// Other values in the place of those of `in`, as many.
  template <class T>
  void set(const T* p, const std::vector<T>& values) {
    copy(const_cast<T*>(p), values.data(), values.size() * sizeof(T));
  }
  /// n elements of 0xff bytes, compared afterwards.
  template <class T>
  T* out(const char* name, std::int64_t n, const Agreement& agreement = kSameBits) {
    return out_as<T>(name, n, agree<T>(agreement));
  }
  template <class T>
  T* out_as(const char* name, std::int64_t n, Compare compare) {
    return watched(name, scratch<T>(n), static_cast<std::size_t>(n) * sizeof(T), std::move(compare));
  }
  /// What an op changes in place, compared afterwards bit for bit.
  template <class T>
  T* inout(const char* name, const std::vector<T>& values) {
    return watched(name, in(values), values.size() * sizeof(T), agree<std::uint8_t>(kSameBits));
  }
  /// n elements of 0xff bytes, 256-byte aligned.
  template <class T>
  T* scratch(std::int64_t n) {
    const std::vector<unsigned char> bytes(static_cast<std::size_t>(n) * sizeof(T), 0xff);
    return static_cast<T*>(place(bytes.data(), bytes.size()));
  }
  /// Gives p the workspace it asks for.
  template <class P>
  void workspace(P& p, std::size_t bytes) {
    p.workspace = scratch<unsigned char>(static_cast<std::int64_t>(bytes));
    p.workspace_bytes = bytes;
  }

  /// What was written here and in `reference` differs in this way, or "".
  std::string difference_from(const Operands& reference) const;

 private:
  struct Output {
    const char* name;
    const void* p;
    std::size_t bytes;
    Compare compare;
  };

  template <class T>
  T* watched(const char* name, T* p, std::size_t bytes, Compare compare) {
    outputs_.push_back({name, p, bytes, std::move(compare)});
    return p;
  }
  void* place(const void* from, std::size_t bytes);
  void copy(void* to, const void* from, std::size_t bytes) const;

  Side side_;
  std::vector<std::unique_ptr<unsigned char[]>> host_;
  std::vector<std::shared_ptr<void>> device_;
  std::vector<Output> outputs_;
};

/// A call that is captured once and then replayed, and what changes in device memory before each round.
struct Replay {
  std::function<Status(Stream)> launch;
  std::function<void(int round)> change;
};

/// Compares, counts, and prints what failed.
class Tally {
 public:
  /// The other side, and its ops. kHost and kImitation touch no device.
  Tally(Side other, const OpTable& ops) : other_(other), ops_(ops) {}

  /// call(table, operands): once for each side.
  void compare(const std::string& title, const std::function<Status(const OpTable&, Operands&)>& call);

  /// prepare(table, operands), once for each side, gives what `rounds` replays of a graph compare: on the GPU
  /// the launch is captured once, before the first change.
  void replay(const std::string& title, int rounds,
              const std::function<Replay(const OpTable&, Operands&)>& prepare);

  /// Both sides refuse: the same code, value and limit, and a message that contains `text`.
  void refuse(const std::string& title, Code code, const std::string& text,
              const std::function<Status(const OpTable&, Operands&)>& call);

  int passed() const { return passed_; }
  int failed() const { return failed_; }

 private:
  void verdict(const std::string& title, const std::string& problem);

  Side other_;
  const OpTable& ops_;
  int passed_ = 0, failed_ = 0;
};

}  // namespace dsv4::gpu
