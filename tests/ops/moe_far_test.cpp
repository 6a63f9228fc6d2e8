// moe_experts and moe_fused where experts lie more than 2^31 bytes apart.
#include "tests/ops/moe_fused_case.hpp"
#include "tests/support/sparse.hpp"

#include <cstring>

using namespace dsv4;
using ops::WeightFormat;
using test::ExpertBytes;
using test::ExpertCase;
using test::ExpertShape;

namespace {

// A matrix's experts so far apart that the second lies beyond 2^31 bytes and the third beyond 2^32, and so
// their scales.
class Far {
 public:
  explicit Far(const ExpertBytes& m)
      : view_(m.view()), data_(bytes(m, m.data->cols())), scales_(bytes(m, m.scales->cols())) {
    for (std::int64_t e = 0; e < m.experts; ++e) {
      std::memcpy(static_cast<char*>(data_.data()) + e * kStride, m.data->row(e), test::at(m.data->cols()));
      std::memcpy(static_cast<char*>(scales_.data()) + e * kStride, m.scales->row(e),
                  test::at(m.scales->cols()));
    }
    view_.data = data_.data(), view_.expert_stride = kStride;
    if (view_.scales) view_.scales = scales_.data(), view_.scales_expert_stride = kStride;
  }
  const ops::ExpertMatrix& view() const { return view_; }

 private:
  static constexpr std::int64_t kStride = (std::int64_t{1} << 31) + 16;
  static std::size_t bytes(const ExpertBytes& m, std::int64_t last) {
    return test::at((m.experts - 1) * kStride + last);
  }

  ops::ExpertMatrix view_;
  test::Sparse data_, scales_;
};

struct FarExperts {
  Far w1, w3, w2;
  explicit FarExperts(const ExpertCase& c) : w1(c.w1), w3(c.w3), w2(c.w2) {}
  ops::ExpertWeights view() const { return {w1.view(), w3.view(), w2.view()}; }
};

ExpertShape shape(WeightFormat format) {
  return {.up = format, .down = format, .tokens = 4, .hidden = 160, .inner = 96, .experts = 3};
}
const std::vector<std::int32_t> kIdx = {0, 2, 2, 1, 1, 0, 2, 0};

}  // namespace

TEST_CASE("moe_experts finds experts beyond 2^31 bytes", "[ops][moe]") {
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kFp8, WeightFormat::kBf16);
  const ExpertCase c(shape(format), kIdx, 51);
  const FarExperts far(c);
  for (const std::int32_t tile_rows : {8, 32}) {
    CAPTURE(static_cast<int>(format), tile_rows);
    const auto y = test::run_experts(c, tile_rows, [&](ops::MoeExpertsParams& p) { p.weights = far.view(); });
    REQUIRE(test::difference_of(y, test::run_experts(c, tile_rows)) == "");
  }
}

TEST_CASE("moe_experts of f32 activations finds experts beyond 2^31 bytes", "[ops][moe]") {
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kF32);
  const ExpertCase c(shape(format), kIdx, 52);
  const FarExperts far(c);
  const auto x = test::normal(c.s.tokens * c.s.hidden, 53);
  const auto run = [&](const ops::ExpertWeights& weights) {
    test::Rows<float> y(c.plan_rows(), c.s.hidden);
    test::run_experts(c, 8, [&](ops::MoeExpertsParams& p) {
      p.y = y.data(), p.y_stride = 0;
      p.input = {.x = x.data()};
      p.weights = weights, p.dtype = ops::DType::kF32;
    });
    return y.values();
  };
  REQUIRE(run(far.view()) == run({c.w1.view(), c.w3.view(), c.w2.view()}));
}

TEST_CASE("moe_fused finds experts beyond 2^31 bytes", "[ops][moe]") {
  const auto format = GENERATE(WeightFormat::kFp4, WeightFormat::kFp8, WeightFormat::kBf16);
  const std::optional<WeightFormat> shared = format == WeightFormat::kFp4 ? WeightFormat::kFp8 : format;
  const test::FusedCase c(shape(format), kIdx, 54, shared);
  const FarExperts far(c.routed);
  const auto out = test::run_fused(c, [&](ops::MoeFusedParams& p) { p.weights = far.view(); });
  REQUIRE(test::difference_of(out, test::run_chain(c)) == "");
}
