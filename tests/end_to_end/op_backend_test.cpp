// The forward pass on ops: what fusing saves, and batch invariance with tensor cores that round like a
// device's.
#include "reference/op_backend/op_backend.hpp"
#include "reference/forward.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/random_model.hpp"

#include <dsv4/simt/counters.hpp>
#include <dsv4/simt/options.hpp>

#include <algorithm>
#include <cstring>
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

// Logits after the last token, the tokens appended `chunk` at a time.
template <class T>
std::vector<float> last_logits(const Model& model, bool fused, int tokens, int chunk) {
  OpBackend<T> backend(model, 1, fused);
  SequenceState state(model.config, model.mode, {});
  const std::vector<std::int32_t> ids = tokens_of(model, tokens);
  std::vector<float> logits;
  for (int first = 0; first < tokens; first += chunk) {
    const int last = std::min(first + chunk, tokens);
    const std::vector<std::int32_t> part(ids.begin() + first, ids.begin() + last);
    const Append append{&state, part, {}};
    Batch batch;
    const Status status = make_batch(model, {&append, 1}, &batch);
    INFO(status.what);
    REQUIRE(status.ok());
    NoTap tap;
    const Output out = forward(backend, model, batch, tap);
    logits.assign(out.logits.row(0), out.logits.row(0) + out.logits.cols());
  }
  return logits;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("--fused folds every norm into its mhc_pre, and every mhc_post into the next one", "[op_backend]") {
  const Model model = test::random_model(test::tiny_config(), NumericMode::kExact, 7);
  const auto launches = [&](bool fused) {
    simt::reset_counters();
    last_logits<float>(model, fused, 3, 3);
    return simt::counters().launches;
  };
  // In fp32 every op is one launch. Sites: two a layer; the last mhc_post has no mhc_pre behind it.
  const std::uint64_t sites = 2 * static_cast<std::uint64_t>(model.config.layers);
  CHECK(launches(false) - launches(true) == sites + (sites - 1));
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
