// The forward pass on ops: what fusing saves, batch invariance with tensor cores that round like a device's,
// the experts in one launch, routing tables that are wrong, and sequences that go back, fork, are restored or
// change their backend.
#include "reference/op_backend/op_backend.hpp"
#include "reference/forward.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/random_model.hpp"

#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/options.hpp>

#include <algorithm>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

using namespace dsv4;
using namespace dsv4::reference;

namespace {

std::vector<std::int32_t> tokens_of(const Model& model, int count) {
  test::Random random(3);
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < count; ++i)
    tokens.push_back(static_cast<std::int32_t>(random.integer(0, model.config.vocab - 1)));
  return tokens;
}

// Appends to each sequence; the logits of each, one after the other.
template <class Backend>
std::vector<float> append(Backend& backend, const Model& model, const std::vector<Append>& appends) {
  Batch batch;
  const Status status = make_batch(model, appends, &batch);
  INFO(status.what);
  REQUIRE(status.ok());
  NoTap tap;
  const Output out = forward(backend, model, batch, tap);
  return {out.logits.data(), out.logits.data() + out.logits.size()};
}

// Appends `ids` to a sequence, `chunk` at a time; the logits after the last.
template <class Backend>
std::vector<float> append(Backend& backend, const Model& model, SequenceState& state,
                          std::span<const std::int32_t> ids, std::size_t chunk) {
  std::vector<float> logits;
  for (; !ids.empty(); ids = ids.subspan(std::min(chunk, ids.size())))
    logits = append(backend, model, {{&state, ids.first(std::min(chunk, ids.size())), {}}});
  return logits;
}

// Logits after the last of `tokens` tokens, appended `chunk` at a time.
template <class T>
std::vector<float> last_logits(const Model& model, bool fused, int tokens, std::size_t chunk) {
  OpBackend<T> backend(model, 1, fused);
  SequenceState state(model.config, model.mode, {});
  return append(backend, model, state, tokens_of(model, tokens), chunk);
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("--fused saves the launches of the chains that it replaces", "[op_backend]") {
  const Model model = test::random_model(test::tiny_config(), NumericMode::kExact, 7);
  const auto launches = [&](bool fused) {
    simt::reset_counters();
    last_logits<float>(model, fused, 3, 3);
    return simt::counters().launches;
  };
  // mhc_pre takes in its norm, mhc_post the next mhc_pre; the last mhc_post has none behind it.
  const std::uint64_t sites = 2 * static_cast<std::uint64_t>(model.config.layers);
  std::uint64_t saved = sites + (sites - 1);
  // Products and what prepares their results, chains to fused. In fp32 every op is one launch, and a norm on
  // the way in one more; indexer queries are prepared twice, the second time with the head weights. Routed
  // experts are two, and combine one; the shared expert runs for its stage either way.
  for (int b = 0; b < model.config.layers; ++b) {
    const LayerKind kind = model.config.kind(b);
    const std::uint64_t products = kind == LayerKind::kSwa ? 3 : kind == LayerKind::kHca ? 5 : 9;
    const std::uint64_t preparations = kind == LayerKind::kCsa ? 4 : 2;
    saved += (products + preparations) - (1 + 2 + 1) + (2 + 1) - 1;
  }
  CHECK(launches(false) - launches(true) == saved);
}

TEST_CASE("logits do not depend on the chunks, with the rounding of a device", "[op_backend]") {
  const auto rounding = GENERATE(simt::Rounding::kChain, simt::Rounding::kAmpere, simt::Rounding::kHopper);
  simt::Options o = simt::options();
  o.rounding = rounding;
  const simt::ScopedOptions scope(o);
  const Model model = test::random_model(test::tiny_config(), NumericMode::kDeploy, 7);
  const std::vector<float> whole = last_logits<bf16>(model, true, 12, 12);
  CHECK(same_bits(last_logits<bf16>(model, true, 12, 1), whole));
  CHECK(same_bits(last_logits<bf16>(model, false, 12, 5), whole));
}

TEST_CASE("the experts in one launch: the chain's bits, also where a tap replaces the shared expert's",
          "[op_backend]") {
  const Model model = test::random_model(test::tiny_config(), NumericMode::kDeploy, 7);
  const int block = GENERATE(0, 2);  // routed by token, and by score
  REQUIRE(model.config.hashed(block) == (block == 0));
  const FfnWeights& w = model.layers[static_cast<std::size_t>(block)].ffn;
  const std::vector<std::int32_t> tokens = tokens_of(model, 5);
  SequenceState state(model.config, model.mode, {});
  Batch batch;
  REQUIRE(make_batch(model, std::vector<Append>{{&state, tokens, {}}}, &batch).ok());
  Tensor<bf16> x(5, model.config.hidden);
  test::Random random(9);
  for (std::int64_t i = 0; i < x.size(); ++i)
    x.data()[i] = from_float<bf16>(static_cast<float>(random.normal()));

  const auto run = [&](bool fused, bool replace) {
    OpBackend<bf16> backend(model, 1, fused);
    backend.begin(batch);
    const Route route = backend.moe_gate(w, x, block, batch);
    const auto plan = backend.moe_dispatch(route);
    simt::reset_counters();
    const Tensor<bf16> y = backend.moe_expert(w, x, plan, route);
    CHECK(simt::counters().launches == (fused ? 1 : 2));
    Tensor<bf16> shared = backend.moe_shared(w, x);
    if (replace) shared.data()[7] = bf16{};
    const Tensor<bf16> out = backend.moe_combine(y, plan, shared);
    return std::vector<bf16>(out.data(), out.data() + out.size());
  };
  const auto same = [](const std::vector<bf16>& a, const std::vector<bf16>& b) {
    return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(bf16)) == 0;
  };
  const std::vector<bf16> whole = run(false, false), changed = run(false, true);
  CHECK(same(run(true, false), whole));
  CHECK(same(run(true, true), changed));
  CHECK_FALSE(same(whole, changed));
}

TEST_CASE("a routing table that names no expert is one exception", "[op_backend]") {
  Model model = test::random_model(test::tiny_config(), NumericMode::kDeploy, 7);
  const std::vector<std::int32_t> tokens = tokens_of(model, 3);
  std::vector<std::int32_t>& table = model.layers[0].ffn.tid2eid;
  table[static_cast<std::size_t>(tokens[1] * model.config.active_experts)] = model.config.experts;
  OpBackend<bf16> backend(model, 1, false);
  SequenceState state(model.config, model.mode, {});
  Batch batch;
  REQUIRE(make_batch(model, std::vector<Append>{{&state, tokens, {}}}, &batch).ok());
  NoTap tap;
  std::string what;
  try {
    forward(backend, model, batch, tap);
  } catch (const std::runtime_error& e) {
    what = e.what();
  }
  CHECK(what.find("block 0 routes by token") != std::string::npos);
}

TEST_CASE("sequences go back, fork and are restored with the op's compressor state", "[op_backend]") {
  const bool deploy = GENERATE(false, true);
  const Model model =
      test::random_model(test::tiny_config(), deploy ? NumericMode::kDeploy : NumericMode::kExact, 11);
  // Across the end of a block of 128 tokens, and of many of 4.
  const std::vector<std::int32_t> ids = tokens_of(model, 133);
  const std::span<const std::int32_t> all(ids), old = all.first(121), rest = all.subspan(121);
  const auto check = [&]<class T>(T) {
    OpBackend<T> backend(model, 1, true);
    SequenceState state(model.config, model.mode, {.max_rollback = 12});
    append(backend, model, state, old, old.size());
    const SequenceState before = state.fork();
    const std::vector<float> logits = append(backend, model, state, rest, rest.size());

    INFO("other tokens, taken back");
    std::vector<std::int32_t> others(rest.begin(), rest.end());
    std::reverse(others.begin(), others.end());
    REQUIRE(state.rollback(121).ok());
    append(backend, model, state, others, 5);
    REQUIRE(state.rollback(121).ok());
    CHECK(same_bits(append(backend, model, state, rest, 7), logits));

    INFO("a fork");
    SequenceState fork = before.fork();
    CHECK(same_bits(append(backend, model, fork, rest, 4), logits));

    INFO("restored: the op's state is made again from the rows, and may go back as far");
    const std::vector<std::uint8_t> blob = state.save();
    SequenceState restored(model.config, model.mode, {.max_rollback = 12});
    REQUIRE(restored.restore(blob).ok());
    REQUIRE(restored.rollback(121).ok());
    CHECK(same_bits(append(backend, model, restored, rest, rest.size()), logits));
    CHECK(restored.save() == blob);

    if constexpr (std::is_same_v<T, float>) {
      INFO("the CPU backend in between");
      CpuBackend<T> cpu(model.config, 1);
      SequenceState mixed = before.fork();
      append(cpu, model, mixed, rest.first(3), 3);
      append(backend, model, mixed, rest.subspan(3, 4), 4);
      append(cpu, model, mixed, rest.subspan(7, 1), 1);
      CHECK(same_bits(append(backend, model, mixed, rest.subspan(8), 2), logits));
      SequenceState by_cpu = before.fork();
      CHECK(same_bits(append(cpu, model, by_cpu, rest, rest.size()), logits));
    }
  };
  if (deploy)
    check(bf16{});
  else
    check(float{});
}

TEST_CASE("a sequence's logits are the same in any batch", "[op_backend]") {
  const Model model = test::random_model(test::tiny_config(), NumericMode::kDeploy, 5);
  const std::vector<std::int32_t> ids = tokens_of(model, 24);
  const std::span<const std::int32_t> all(ids);
  OpBackend<bf16> backend(model, 1, true);
  // Three sequences of different lengths and histories.
  SequenceState a(model.config, model.mode, {.max_rollback = 4}), b(model.config, model.mode, {}),
      c(model.config, model.mode, {.max_rollback = 4});
  append(backend, model, a, all.first(9), 9);
  append(backend, model, c, all.first(3), 3);
  SequenceState a1 = a.fork(), b1 = b.fork(), c1 = c.fork();
  std::vector<float> alone = append(backend, model, {{&a, all.subspan(9, 4), {}}});
  for (auto [state, tokens] : {std::pair{&b, all.first(7)}, std::pair{&c, all.subspan(3, 1)}}) {
    const std::vector<float> logits = append(backend, model, {{state, tokens, {}}});
    alone.insert(alone.end(), logits.begin(), logits.end());
  }
  const std::vector<float> together = append(
      backend, model, {{&a1, all.subspan(9, 4), {}}, {&b1, all.first(7), {}}, {&c1, all.subspan(3, 1), {}}});
  CHECK(same_bits(together, alone));
  CHECK(a1.save() == a.save());
  CHECK(b1.save() == b.save());
  CHECK(c1.save() == c.save());
}
