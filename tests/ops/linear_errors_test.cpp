// What the linear ops refuse, and that they say why.
#include <dsv4/simt/counters.hpp>

#include "tests/ops/linear_case.hpp"

using namespace dsv4;
using ops::WeightFormat;
using test::Rows;

namespace {

alignas(16) char memory[64];
constexpr Code kBad = Code::kInvalidArgument, kMissing = Code::kUnsupported;

ops::LinearMultiParams valid() {
  ops::LinearMultiParams p{.count = 2, .input = {.x = memory}, .tokens = 1, .k = 256};
  p.parts[0] = {
      .y = memory, .weight = {.data = memory, .scales = memory, .format = WeightFormat::kFp8}, .n = 16};
  p.parts[1] = {.y = memory, .weight = {.data = memory}, .n = 16};
  return p;
}

template <class F>
void refused(F change, Code code, std::int64_t value, std::int64_t limit, const char* text) {
  ops::LinearMultiParams p = valid();
  change(p);
  REQUIRE_REFUSED(ops::linear_multi(p, nullptr), code, value, limit, text);
}

}  // namespace

TEST_CASE("linear_multi refuses sizes, formats and pointers that it cannot take", "[ops][linear][errors]") {
  using P = ops::LinearMultiParams;
  refused([](P& p) { p.tokens = -1; }, kBad, -1, INT32_MAX, "linear_multi: tokens");
  refused([](P& p) { p.k = 0; }, kBad, 0, 1 << 20, "linear_multi: k");
  refused([](P& p) { p.k = 264; }, kMissing, 264, 16, "k must be a multiple");
  refused([](P& p) { p.count = 0; }, kBad, 0, 16, "count");
  refused([](P& p) { p.count = 17; }, kBad, 17, 16, "count");
  refused([](P& p) { p.dtype = static_cast<ops::DType>(7); }, kMissing, 7, 0, "dtype");
  refused([](P& p) { p.parts[1].n = 0; }, kBad, 0, 1 << 30, "n must be");
  refused([](P& p) { p.parts[1].weight.format = WeightFormat::kF32; }, kMissing, 2, 0, "weight.format");
  refused([](P& p) { p.parts[1].quantise = true; }, kBad, 0, 0, "quantise");
  refused([](P& p) { p.parts[1].y_type = static_cast<ops::DType>(5); }, kMissing, 5, 0, "y_type");
  refused([](P& p) { p.parts[0].x_column = 64; }, kBad, 64, 128, "x_column");
  refused([](P& p) { p.parts[0].weight.stride = 255; }, kBad, 255, 256, "weight.stride");
  refused([](P& p) { p.parts[0].weight.stride = 264; }, kBad, 264, 16, "weight.stride");
  refused([](P& p) { p.parts[0].weight.scales_stride = 1; }, kBad, 1, 2, "weight.scales_stride");
  refused([](P& p) { p.parts[0].weight.scales_row = 8; }, kBad, 8, 16, "weight.scales_row");
  refused([](P& p) { p.parts[0].y_stride = 15; }, kBad, 15, 16, "y_stride");
  refused([](P& p) { p.input.x_stride = 260; }, kBad, 260, 8, "input.x_stride");
  refused([](P& p) { p.parts[0].x_column = 128, p.input.x_stride = 256; }, kBad, 256, 384, "input.x_stride");
  refused([](P& p) { p.input.norm_eps = -1.0f; }, kBad, 0, 0, "input.norm_eps");
  refused([](P& p) { p.input.x = nullptr; }, kBad, 0, 0, "input.x must not be null");
  refused([](P& p) { p.input.x = memory + 8; }, kBad, 8, 16, "input.x must be aligned");
  refused([](P& p) { p.parts[0].weight.scales = nullptr; }, kBad, 0, 0, "weight.scales");
  refused([](P& p) { p.parts[1].weight.data = nullptr; }, kBad, 0, 0, "weight.data");
  refused([](P& p) { p.parts[1].y = memory + 1; }, kBad, 1, 2, "y must be aligned");
  refused([](P& p) { p.tokens = INT32_MAX, p.parts[0].n = 1 << 20; }, kBad,
          std::int64_t{8192 + 1} * ((1 << 26)), INT32_MAX, "grid");
  const auto codes = [](P& p) { p.input.codes = memory, p.input.scales = memory; };
  refused([&](P& p) { codes(p), p.input.norm_weight = reinterpret_cast<const float*>(memory); }, kBad, 0, 0,
          "input.codes must be null with a norm");
  refused([&](P& p) { codes(p), p.input.codes_stride = 264; }, kBad, 264, 16, "input.codes_stride");
  refused([&](P& p) { codes(p), p.input.scales_stride = 1; }, kBad, 1, 2, "input.scales_stride");
  refused([&](P& p) { codes(p), p.input.scale_type = static_cast<ops::ScaleType>(3); }, kMissing, 3, 0,
          "input.scale_type");
  refused([&](P& p) { codes(p), p.input.scales = nullptr; }, kBad, 0, 0, "input.scales");
  refused(
      [](P& p) {
        p.input.norm_weight = reinterpret_cast<const float*>(memory);
        p.parts[0].x_column = 128;
      },
      kBad, 128, 0, "x_column must be 0 with a norm");
}

TEST_CASE("linear_multi asks for the workspace that it says", "[ops][linear][errors]") {
  ops::LinearMultiParams p = valid();
  REQUIRE(ops::linear_multi_workspace_bytes(p) == 0);
  p.parts[0].quantise = true;
  std::size_t last = 0;
  for (const std::int64_t tokens : {1, 8, 9, 64, 65, 1000}) {
    p.tokens = tokens;
    const std::size_t bytes = ops::linear_multi_workspace_bytes(p);
    REQUIRE(bytes >= last);
    REQUIRE((bytes == 0) == (tokens <= 64));
    REQUIRE(bytes % 256 == 0);
    last = bytes;
  }
  REQUIRE_REFUSED(ops::linear_multi(p, nullptr), Code::kWorkspaceTooSmall, 0, last, "workspace_bytes");
  p.workspace_bytes = last;
  REQUIRE_REFUSED(ops::linear_multi(p, nullptr), kBad, 0, 0, "workspace must not be null");
}

TEST_CASE("linear_bf16 and linear_fp8 refuse each other's weights", "[ops][linear][errors]") {
  ops::LinearBf16Params plain{
      .y = memory, .input = {.x = memory}, .weight = {.data = memory}, .tokens = 1, .n = 16, .k = 16};
  plain.weight.format = WeightFormat::kFp8;
  REQUIRE_REFUSED(ops::linear_bf16(plain, nullptr), kMissing, 1, 0, "linear_bf16: weight.format");
  plain.weight.format = WeightFormat::kBf16, plain.input.codes = memory;
  REQUIRE_REFUSED(ops::linear_bf16(plain, nullptr), kBad, 0, 0, "linear_bf16: input.codes");
  plain.input.codes = nullptr, plain.k = 12;
  REQUIRE_REFUSED(ops::linear_bf16(plain, nullptr), kMissing, 12, 8, "linear_bf16: k");
  ops::LinearFp8Params fp8{
      .y = memory, .input = {.x = memory}, .weight = {.data = memory}, .tokens = 1, .n = 16, .k = 16};
  REQUIRE_REFUSED(ops::linear_fp8(fp8, nullptr), kMissing, 0, 0, "linear_fp8: weight.format");
  fp8.weight.format = WeightFormat::kFp8;
  REQUIRE_REFUSED(ops::linear_fp8(fp8, nullptr), kBad, 0, 0, "linear_fp8: weight.scales");
}

TEST_CASE("linear of no tokens launches nothing and needs no pointers", "[ops][linear]") {
  ops::LinearMultiParams p = valid();
  p.tokens = 0, p.input.x = nullptr;
  for (ops::LinearPart& part : p.parts) part.y = nullptr, part.weight.data = nullptr;
  simt::reset_counters();
  REQUIRE_OK(ops::linear_multi(p, nullptr));
  REQUIRE(simt::counters().launches == 0);
}
