#include "tests/gpu/compare.hpp"

#include <dsv4/simt/options.hpp>

#include <cmath>
#include <cstdio>
#include <cstring>

namespace dsv4::gpu {
namespace {

constexpr std::size_t kAlign = 256;

double number(float x) { return x; }
double number(bf16 x) { return to_float(x); }
double number(std::int32_t x) { return x; }
double number(std::uint8_t x) { return x; }

template <class T>
std::string difference(const Agreement& agreement, bool any_nan, const void* reference, const void* other,
                       std::size_t bytes) {
  const std::size_t n = bytes / sizeof(T);
  std::size_t differing = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto* a = static_cast<const unsigned char*>(reference) + i * sizeof(T);
    const auto* b = static_cast<const unsigned char*>(other) + i * sizeof(T);
    if (std::memcmp(a, b, sizeof(T)) == 0) continue;
    T x, y;
    std::memcpy(static_cast<void*>(&x), a, sizeof(T));
    std::memcpy(static_cast<void*>(&y), b, sizeof(T));
    const double u = number(x), v = number(y);
    if (any_nan && std::isnan(u) && std::isnan(v)) continue;
    ++differing;
    const double limit = agreement.absolute + agreement.relative * std::fmax(std::fabs(u), std::fabs(v));
    if (!(std::fabs(u - v) <= limit)) {
      char text[160];
      std::snprintf(text, sizeof text, "element %zu of %zu: SIMT machine %.9g, other side %.9g, limit %.3g",
                    i, n, u, v, limit);
      return text;
    }
  }
  if (static_cast<double>(differing) <= agreement.share * static_cast<double>(n)) return "";
  return std::to_string(differing) + " of " + std::to_string(n) + " elements differ, share " +
         std::to_string(agreement.share) + " is allowed";
}

/// How the other side executes when it is the machine too: as unlike the reference as the rules allow.
simt::Options imitation() {
  simt::Options o = simt::options();
  o.async = simt::Async::kRandom;
  o.schedule = simt::Schedule::kRandom;
  o.rounding = simt::Rounding::kHopper;
  return o;
}

/// Runs f on a side; the machine's options are those of the side.
template <class F>
auto on(Side side, F&& f) {
  if (side != Side::kImitation) return f();
  const simt::ScopedOptions scope(imitation());
  return f();
}

std::string refused(const char* who, const Status& s) {
  return std::string(who) + ": " + s.what + " (value " + std::to_string(s.value) + ", limit " +
         std::to_string(s.limit) + ", cuda " + std::to_string(s.cuda) + ")";
}

}  // namespace

template <class T>
Compare agree(const Agreement& agreement) {
  return [agreement](const void* reference, const void* other, std::size_t bytes) {
    return difference<T>(agreement, false, reference, other, bytes);
  };
}
template Compare agree<float>(const Agreement&);
template Compare agree<bf16>(const Agreement&);
template Compare agree<std::int32_t>(const Agreement&);
template Compare agree<std::uint8_t>(const Agreement&);

Compare agree_or_nan(const Agreement& agreement) {
  return [agreement](const void* reference, const void* other, std::size_t bytes) {
    return difference<float>(agreement, true, reference, other, bytes);
  };
}

void* Operands::place(const void* from, std::size_t bytes) {
  void* p = nullptr;
  if (side_ == Side::kDevice) {
    device_.push_back(device::allocate(bytes));
    p = device_.back().get();
  } else {
    host_.push_back(std::make_unique<unsigned char[]>(bytes + kAlign));
    const auto start = reinterpret_cast<std::uintptr_t>(host_.back().get());
    p = host_.back().get() + ((start + kAlign - 1) / kAlign * kAlign - start);
  }
  copy(p, from, bytes);
  return p;
}

void Operands::copy(void* to, const void* from, std::size_t bytes) const {
  if (bytes == 0) return;
  if (side_ == Side::kDevice)
    device::copy_to(to, from, bytes);
  else
    std::memcpy(to, from, bytes);
}

std::string Operands::difference_from(const Operands& reference) const {
  for (std::size_t i = 0; i < outputs_.size(); ++i) {
    const Output& o = outputs_[i];
    std::vector<unsigned char> bytes(o.bytes);
    if (side_ == Side::kDevice)
      device::copy_from(bytes.data(), o.p, o.bytes, o.name);
    else if (o.bytes > 0)
      std::memcpy(bytes.data(), o.p, o.bytes);
    const Compare& compare = side_ == Side::kHost ? agree<std::uint8_t>(kSameBits) : o.compare;
    const std::string d = compare(reference.outputs_[i].p, bytes.data(), o.bytes);
    if (!d.empty()) return std::string(o.name) + ": " + d;
  }
  return "";
}

void Tally::verdict(const std::string& title, const std::string& problem) {
  if (problem.empty()) {
    ++passed_;
  } else {
    ++failed_;
    std::printf("FAILED  %s: %s\n", title.c_str(), problem.c_str());
  }
}

void Tally::compare(const std::string& title, const std::function<Status(const OpTable&, Operands&)>& call) {
  replay(title, 1, [&](const OpTable& f, Operands& m) -> Replay {
    return {[&call, &f, &m](Stream) { return call(f, m); }, nullptr};
  });
}

void Tally::replay(const std::string& title, int rounds,
                   const std::function<Replay(const OpTable&, Operands&)>& prepare) {
  Operands reference(Side::kReference), other(other_);
  const Replay expected = prepare(simt_v0::op_table(), reference);
  const Replay got = prepare(ops_, other);
  // A single call needs no graph, and may allocate its operands.
  const bool captured = other_ == Side::kDevice && got.change != nullptr;
  const auto graph =
      captured ? device::capture(got.launch) : [&](const std::string&) { return got.launch(nullptr); };
  std::string problem;
  for (int round = 0; round < rounds && problem.empty(); ++round) {
    if (expected.change) expected.change(round), got.change(round);
    const Status simt = expected.launch(nullptr);
    const Status second = on(other_, [&] { return graph(title); });
    if (!simt.ok())
      problem = refused("SIMT machine", simt);
    else if (!second.ok())
      problem = refused("other side", second);
    else if (other_ == Side::kDevice)
      device::synchronise(title.c_str());  // nothing works after a failed kernel
    if (problem.empty()) problem = other.difference_from(reference);
    if (!problem.empty() && rounds > 1) problem = "round " + std::to_string(round) + ": " + problem;
  }
  verdict(title, problem);
}

void Tally::refuse(const std::string& title, Code code, const std::string& text,
                   const std::function<Status(const OpTable&, Operands&)>& call) {
  Operands reference(Side::kReference), other(other_);
  const Status a = call(simt_v0::op_table(), reference), b = call(ops_, other);
  std::string problem;
  if (a.code != code || std::string(a.what).find(text) == std::string::npos)
    problem = refused("SIMT machine", a) + ", expected a refusal with \"" + text + '"';
  else if (b.code != a.code || std::strcmp(b.what, a.what) != 0 || b.value != a.value || b.limit != a.limit)
    problem = refused("other side", b) + ", expected \"" + a.what + '"';
  verdict(title + " refuses " + text, problem);
}

}  // namespace dsv4::gpu
