// Mirrors reference/forward.hpp: which stage gets what. The oracle of the one stage looked at is in double.
#include "reference/forward.hpp"

#include "reference/cpu_backend.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/oracle_formats.hpp"
#include "tests/support/random.hpp"
#include "tests/support/random_model.hpp"

#include <cmath>
#include <string>
#include <vector>

using namespace dsv4;
using namespace dsv4::reference;

namespace {

// Keeps the streams that leave the last layer and those that enter the MTP block.
struct StreamsTap : NoTap {
  explicit StreamsTap(int layers) : layers_(layers) {}

  void operator()(int block, const char* site, const char* name, Tensor<float>& x) {
    const std::string tap = std::string(site) + name;
    if (block == layers_ - 1 && tap == "hc_ffn.out") leaving.assign(x.data(), x.data() + x.size());
    if (block == layers_ && tap == "in") entering.assign(x.data(), x.data() + x.size());
  }

  std::vector<float> leaving, entering;  // [T, S, D]

 private:
  int layers_;
};

double weight(const WeightView& w, std::int64_t row, std::int64_t col) {
  REQUIRE(w.type == linear::WeightType::kBf16);
  return test::oracle::bf16_value(static_cast<const bf16*>(w.data)[row * w.cols + col].bits);
}

// w * x / root mean square, in double.
std::vector<double> rms_norm(const std::vector<double>& x, const std::vector<float>& w, double eps) {
  double squares = 0;
  for (const double v : x) squares += v * v;
  std::vector<double> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i)
    y[i] = w[i] * x[i] / std::sqrt(squares / static_cast<double>(x.size()) + eps);
  return y;
}

}  // namespace

TEST_CASE("forward gives the MTP block the NEXT token through enorm and the streams through hnorm") {
  const ModelConfig config = test::tiny_config();
  const Model model = test::random_model(config, NumericMode::kExact, 4);
  const MtpWeights& mtp = model.mtp[0];
  const std::vector<std::int32_t> tokens = test::integers(6, 9, 0, config.vocab - 1);
  const std::span<const std::int32_t> all(tokens);
  SequenceState state(config, model.mode, {.mtp = true});
  const Append append{&state, all.first(5), all.last(5)};
  Batch batch;
  REQUIRE(make_batch(model, {&append, 1}, &batch).ok());
  CpuBackend<float> backend(config, 1);
  StreamsTap tap(config.layers);
  forward(backend, model, batch, tap);

  const auto hidden = static_cast<std::size_t>(config.hidden);
  REQUIRE(tap.leaving.size() == 5 * kStreams * hidden);
  REQUIRE(tap.entering.size() == 5 * kStreams * hidden);
  for (std::size_t t = 0; t < 5; ++t) {
    std::vector<double> e(hidden);
    for (std::size_t d = 0; d < hidden; ++d)
      e[d] = weight(model.embed, tokens[t + 1], static_cast<std::int64_t>(d));
    e = rms_norm(e, mtp.enorm, config.norm_eps);
    for (std::size_t s = 0; s < kStreams; ++s) {
      CAPTURE(t, s);
      const float* x = tap.leaving.data() + (t * kStreams + s) * hidden;
      const std::vector<double> h = rms_norm(std::vector<double>(x, x + hidden), mtp.hnorm, config.norm_eps);
      double worst = 0;
      for (std::size_t n = 0; n < hidden; ++n) {
        double sum = 0, magnitude = 0;
        for (std::size_t d = 0; d < hidden; ++d) {
          const auto row = static_cast<std::int64_t>(n), col = static_cast<std::int64_t>(d);
          const double terms[] = {weight(mtp.e_proj, row, col) * e[d], weight(mtp.h_proj, row, col) * h[d]};
          for (const double term : terms) sum += term, magnitude += std::abs(term);
        }
        // Two fma and five tree additions a dot of 64, the norm's dozen, one addition: 20 roundings.
        const double bound = 20 * 0x1p-24 * magnitude;
        const double got = tap.entering[(t * kStreams + s) * hidden + n];
        worst = std::max(worst, std::abs(got - sum) / bound);
      }
      CHECK(worst <= 1);
    }
  }
}
