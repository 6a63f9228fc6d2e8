// Ops called by several host threads at the same time give the bits that each gives alone. The machine runs
// one launch after the other, in whatever order they arrive: what is shown is that checks, plans, workspace
// walks and parameters of one call know nothing of another's, under the sanitizers too.
#include <dsv4/ops/attn_attend.hpp>
#include <dsv4/ops/linear.hpp>
#include <dsv4/ops/rms_norm.hpp>

#include "tests/ops/linear_case.hpp"
#include "tests/support/shapes.hpp"

#include <atomic>
#include <memory>
#include <string>
#include <thread>

using namespace dsv4;
using test::at;
using test::Rows;

namespace {

/// A thread's own problems, each of its own size and seed; results as bytes. No assertions: Catch2's belong
/// to the main thread.
struct Work {
  explicit Work(std::uint64_t s)
      : seed(s),
        tokens(static_cast<std::int64_t>(1 + s % 4) * 3),
        x(tokens, 256, test::row_of<bf16>(test::normal(tokens * 256, s))),
        weight(
            test::random_matrix(s % 2 == 0 ? ops::WeightFormat::kFp8 : ops::WeightFormat::kBf16, 40, 256, s)),
        norm(test::uniform(256, s, 0.5, 2.0)) {}

  std::string run() const {
    std::vector<bf16> normed(at(tokens * 256)), y(at(tokens * 40)), o(at(tokens * 2 * 512));
    Status s = ops::rms_norm(
        {.out = normed.data(), .x = x.data(), .weight = norm.data(), .rows = tokens, .n = 256, .eps = 1e-6f},
        nullptr);
    if (!s.ok()) return s.what;
    ops::LinearMultiParams p = {
        .count = 1, .input = {.x = x.data(), .norm_weight = norm.data()}, .tokens = tokens, .k = 256};
    p.parts[0] = {.y = y.data(),
                  .weight = weight.weight(),
                  .n = 40,
                  .quantise = weight.format == ops::WeightFormat::kFp8};
    test::TestWorkspace w(ops::linear_multi_workspace_bytes(p));
    p.workspace = w.data(), p.workspace_bytes = w.bytes();
    s = ops::linear_multi(p, nullptr);
    if (!s.ok()) return s.what;
    // Attention of x's rows, as two heads each, over normed rows, as one entry for two of them.
    std::vector<std::int32_t> idx;
    for (std::int32_t t = 0; t < tokens; ++t) idx.insert(idx.end(), {t / 2, 0});
    ops::AttnAttendParams a = {.o = o.data(),
                               .q = q.data(),
                               .entries = {.pool = {.data = normed.data(), .slots = tokens / 2},
                                           .kind = ops::SelectionKind::kList,
                                           .idx = idx.data(),
                                           .max_count = 2},
                               .tokens = tokens,
                               .heads = 2,
                               .head_dim = 512,
                               .scale = 0.04f};
    test::TestWorkspace aw(ops::attn_attend_workspace_bytes(a));
    a.workspace = aw.data(), a.workspace_bytes = aw.bytes();
    s = ops::attn_attend(a, nullptr);
    if (!s.ok()) return s.what;
    if (ops::rms_norm({.rows = -static_cast<std::int64_t>(seed)}, nullptr).value !=
        -static_cast<std::int64_t>(seed))
      return "a refusal names another call's value";
    std::string bytes;
    for (const auto* v : {&normed, &y, &o})
      bytes.append(reinterpret_cast<const char*>(v->data()), v->size() * sizeof(bf16));
    return bytes;
  }

  std::uint64_t seed;
  std::int64_t tokens;
  Rows<bf16> x;
  test::TestMatrix weight;
  std::vector<float> norm;
  Rows<bf16> q = Rows<bf16>(tokens, 2 * 512, test::row_of<bf16>(test::normal(tokens * 2 * 512, seed + 50)));
};

}  // namespace

TEST_CASE("host threads that call ops at the same time get the bits of calls alone", "[ops][threads]") {
  const int thread_count = test::reduced() ? 2 : 6, rounds = test::reduced() ? 1 : 5;
  std::vector<std::unique_ptr<Work>> work;
  std::vector<std::string> alone;
  for (int i = 0; i < thread_count; ++i) {
    work.push_back(std::make_unique<Work>(static_cast<std::uint64_t>(i + 1)));
    alone.push_back(work.back()->run());
    REQUIRE(alone.back().size() > 1000);  // results, not a message
  }
  std::vector<int> same(work.size(), 0);
  std::atomic<int> ready = 0;
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < work.size(); ++i)
    threads.emplace_back([&, i] {
      for (++ready; ready < thread_count;) std::this_thread::yield();
      for (int round = 0; round < rounds; ++round) same[i] += work[i]->run() == alone[i] ? 1 : 0;
    });
  for (std::thread& t : threads) t.join();
  for (const int n : same) REQUIRE(n == rounds);
}
