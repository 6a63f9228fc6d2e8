// How often the linear ops touch memory: speed that a test can hold without a GPU.
#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/watch.hpp>

#include "tests/ops/linear_case.hpp"
#include "tests/support/shapes.hpp"

using namespace dsv4;
using ops::WeightFormat;
using simt::Watch;
using test::Rows;
using test::TestMatrix;

namespace {

std::uint64_t weight_bytes(const TestMatrix& w) {
  return static_cast<std::uint64_t>(w.n * w.k) * (w.format == WeightFormat::kFp8 ? 1 : 2);
}

}  // namespace

TEST_CASE("linear streams weights once for up to 64 tokens, and its shared memory is free of conflicts",
          "[ops][linear][traffic]") {
  const auto format = GENERATE(WeightFormat::kFp8, WeightFormat::kBf16);
  const std::int64_t tokens = GENERATE(1, 4, 8, 9, 32, 33, 64, 65), n = 150, k = 528;
  const TestMatrix w = test::random_matrix(format, n, k, 1);
  const Rows<bf16> x(tokens, k, test::row_of<bf16>(test::normal_bf16(tokens * k, 2)));
  Rows<bf16> y(tokens, n);
  ops::LinearMultiParams p{.count = 1, .input = {.x = x.data()}, .tokens = tokens, .k = k};
  p.parts[0] = {.y = y.data(), .weight = w.weight(), .n = n, .quantise = format == WeightFormat::kFp8};
  const Watch reads(w.weight().data, weight_bytes(w), true);
  const Watch writes(y.data(), static_cast<std::size_t>(tokens * n) * sizeof(bf16), true);
  const Watch activations(x.data(), static_cast<std::size_t>(tokens * k) * sizeof(bf16));
  simt::reset_counters();
  test::run_linear(p);
  CAPTURE(static_cast<int>(format), tokens);
  REQUIRE(reads.read_bytes() == weight_bytes(w) * static_cast<std::uint64_t>((tokens + 63) / 64));
  REQUIRE(writes.written_bytes() == static_cast<std::uint64_t>(tokens * n) * sizeof(bf16));
  REQUIRE(writes.max_writes_of_a_byte() == 1);
  // Once for every 16 rows, or 128 from 33 tokens on; beyond 64 quantised once, by a launch of its own.
  const auto x_bytes = static_cast<std::uint64_t>(tokens * k) * sizeof(bf16);
  const bool alone = format == WeightFormat::kFp8 && tokens > 64;
  REQUIRE(activations.read_bytes() == x_bytes * (tokens <= 32 ? 10 : alone ? 1 : 2));
  REQUIRE(simt::counters().shared_bank_conflicts == 0);  // counted in instrumented builds
  REQUIRE(simt::counters().launches == (alone ? 2 : 1));
}

TEST_CASE("a decode step's projections are one launch that reads little but weights",
          "[ops][linear][traffic]") {
  // Wq_a, Wkv and a compressor's pair of one layer, a token: norm and quantisation on the way in.
  const std::int64_t k = test::reduced() ? 512 : 4096;
  const std::vector<std::int64_t> ns = {test::reduced() ? 64 : 1024, 512, 64};
  const auto weight = test::uniform(k, 3, 0.5, 1.5);
  const Rows<bf16> x(1, k, test::row_of<bf16>(test::normal_bf16(k, 4)));
  std::vector<TestMatrix> w;
  std::vector<std::unique_ptr<Rows<bf16>>> y;
  ops::LinearMultiParams p{.count = 3,
                           .input = {.x = x.data(), .norm_weight = weight.data(), .norm_eps = 1e-6f},
                           .tokens = 1,
                           .k = k};
  std::uint64_t weights = 0;
  for (std::size_t i = 0; i < 3; ++i) {
    w.push_back(test::random_matrix(i < 2 ? WeightFormat::kFp8 : WeightFormat::kBf16, ns[i], k, 5 + i));
    y.push_back(std::make_unique<Rows<bf16>>(1, ns[i]));
    p.parts[i] = {.y = y[i]->data(), .weight = w[i].weight(), .n = ns[i], .quantise = i < 2};
    weights += weight_bytes(w[i]);
  }
  REQUIRE(ops::linear_multi_workspace_bytes(p) == 0);
  std::vector<std::unique_ptr<Watch>> reads;
  for (const TestMatrix& m : w) reads.push_back(std::make_unique<Watch>(m.weight().data, weight_bytes(m)));
  const Watch activations(x.data(), static_cast<std::size_t>(k) * sizeof(bf16));
  simt::reset_counters();
  REQUIRE_OK(ops::linear_multi(p, nullptr));
  REQUIRE(simt::counters().launches == 1);
  std::uint64_t read = 0;
  for (const auto& r : reads) read += r->read_bytes();
  REQUIRE(read == weights);
  // Every block reads x once, from L2: an eighth of its 16 rows of FP8 weights.
  REQUIRE(activations.read_bytes() <= weights / 8 + static_cast<std::uint64_t>(k) * sizeof(bf16));
  REQUIRE(simt::counters().shared_bank_conflicts == 0);
}
