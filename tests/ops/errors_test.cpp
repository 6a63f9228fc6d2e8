// What the launchers of the row ops refuse, and how: code, value met, limit broken, and a message that names
// the op and the argument. Nothing is launched, nothing written.
#include <dsv4/ops/act_quant.hpp>
#include <dsv4/ops/embed.hpp>
#include <dsv4/ops/hadamard.hpp>
#include <dsv4/ops/lm_head.hpp>
#include <dsv4/ops/rms_norm.hpp>
#include <dsv4/ops/rope.hpp>
#include <dsv4/simt/counters.hpp>

#include "tests/support/op_buffers.hpp"

#include <cmath>
#include <cstring>

using namespace dsv4;

namespace {

constexpr auto kInvalid = Code::kInvalidArgument;
constexpr auto kUnsupported = Code::kUnsupported;
constexpr std::int64_t kTwo31 = std::int64_t{1} << 31;
constexpr std::int64_t kTwo30 = std::int64_t{1} << 30;
const auto kNoType = static_cast<ops::DType>(9);

// Memory for every pointer of a case; what is refused may not touch it.
alignas(64) std::byte memory[4][1024];

// Zeros everywhere: ids, positions and rows that exist.
void clear_memory() { std::memset(memory, 0, sizeof memory); }

template <class T = void>
T* at(int buffer, std::size_t offset = 0) {
  return reinterpret_cast<T*>(memory[buffer] + offset);
}

// Params that are right, changed by `change`, are refused.
#define REFUSED(good, change, code, value, limit, text) \
  do {                                                  \
    auto p = (good);                                    \
    change;                                             \
    const auto before = simt::counters().launches;      \
    REQUIRE_REFUSED(call(p), code, value, limit, text); \
    REQUIRE(simt::counters().launches == before);       \
  } while (0)

Status call(const ops::EmbedParams& p) { return ops::embed(p, nullptr); }
Status call(const ops::RmsNormParams& p) { return ops::rms_norm(p, nullptr); }
Status call(const ops::ActQuantParams& p) { return ops::act_quant(p, nullptr); }
Status call(const ops::RopeParams& p) { return ops::rope(p, nullptr); }
Status call(const ops::HadamardParams& p) { return ops::hadamard(p, nullptr); }
Status call(const ops::LmHeadParams& p) { return ops::lm_head(p, nullptr); }

// An empty problem is ok without any pointer, but its sizes and types are still checked.
template <class P>
void check_empty(P p, std::int64_t P::*count) {
  p.*count = 0;
  REQUIRE(call(p).ok());
  p.dtype = kNoType;
  REQUIRE(call(p).code == kUnsupported);
}

}  // namespace

TEST_CASE("embed refuses", "[ops][embed][errors]") {
  clear_memory();
  const ops::EmbedParams good{.out = at(0),
                              .table = at(1),
                              .ids = at<std::int32_t>(2),
                              .tokens = 2,
                              .hidden = 8,
                              .vocab = 3,
                              .streams = 4};
  REQUIRE(call(good).ok());
  check_empty(ops::EmbedParams{.hidden = 8, .vocab = 3, .streams = 4}, &ops::EmbedParams::tokens);
  REFUSED(good, p.tokens = -1, kInvalid, -1, 0, "embed: tokens");
  REFUSED(good, p.tokens = kTwo31, kInvalid, kTwo31, 0, "embed: tokens");
  REFUSED(good, p.hidden = 0, kInvalid, 0, 0, "embed: hidden");
  REFUSED(good, p.hidden = kTwo30, kInvalid, kTwo30, 0, "embed: hidden");
  REFUSED(good, p.vocab = 0, kInvalid, 0, 0, "embed: vocab");
  REFUSED(good, p.vocab = kTwo31, kInvalid, kTwo31, 0, "embed: vocab");
  REFUSED(good, p.first_row = -1, kInvalid, -1, good.vocab, "embed: first_row");
  REFUSED(good, p.first_row = p.vocab, kInvalid, good.vocab, good.vocab, "embed: first_row");
  REFUSED(good, p.rows = p.vocab + 1, kInvalid, good.vocab + 1, good.vocab, "embed: rows");
  REFUSED(good, (p.first_row = 1, p.rows = p.vocab), kInvalid, good.vocab, good.vocab - 1, "embed: rows");
  REFUSED(good, p.streams = 1, kUnsupported, 1, 4, "embed: only 4 streams");
  REFUSED(good, p.out_stride = 31, kInvalid, 31, 32, "embed: out_stride");
  REFUSED(good, p.table_stride = 7, kInvalid, 7, 8, "embed: table_stride");
  REFUSED(good, p.dtype = kNoType, kUnsupported, 9, 0, "embed: dtype");
  REFUSED(good, p.table_dtype = kNoType, kUnsupported, 9, 0, "embed: table_dtype");
  REFUSED(good, p.out = nullptr, kInvalid, 0, 0, "embed: out");
  REFUSED(good, p.table = nullptr, kInvalid, 0, 0, "embed: out, table");
  REFUSED(good, p.ids = nullptr, kInvalid, 0, 0, "ids must not be null");
  REFUSED(good, p.out = at(0, 1), kInvalid, 0, 0, "embed: out must be aligned");
  REFUSED(good, p.table = at(1, 1), kInvalid, 0, 0, "embed: table must be aligned");
  REFUSED(good, p.ids = at<std::int32_t>(2, 2), kInvalid, 0, 0, "embed: ids must be aligned");
  REFUSED(good, (p.ids = at<std::int32_t>(2, 4), p.wide_ids = true), kInvalid, 0, 0,
          "embed: ids must be aligned");
}

TEST_CASE("rms_norm refuses", "[ops][rms_norm][errors]") {
  clear_memory();
  const ops::RmsNormParams good{.out = at(0),
                                .quantised = {.codes = at(1), .scales = at(2)},
                                .x = at(3),
                                .rows = 2,
                                .n = 136,
                                .eps = 1e-6f};
  REQUIRE(call(good).ok());
  check_empty(ops::RmsNormParams{.n = 8}, &ops::RmsNormParams::rows);
  REFUSED(good, p.rows = -1, kInvalid, -1, 0, "rms_norm: rows");
  REFUSED(good, p.rows = kTwo31, kInvalid, kTwo31, 0, "rms_norm: rows");
  REFUSED(good, p.n = 0, kInvalid, 0, kTwo30, "rms_norm: n in");
  REFUSED(good, p.n = kTwo30 + 1, kInvalid, kTwo30 + 1, kTwo30, "rms_norm: n in");
  REFUSED(good, p.eps = -1.0f, kInvalid, 0, 0, "rms_norm: eps");
  REFUSED(good, p.eps = std::nanf(""), kInvalid, 0, 0, "rms_norm: eps");
  REFUSED(good, p.x_stride = 135, kInvalid, 135, 136, "rms_norm: x_stride");
  REFUSED(good, p.out_stride = -1, kInvalid, -1, 136, "rms_norm: out_stride");
  REFUSED(good, p.quantised.codes_stride = 135, kInvalid, 135, 136, "rms_norm: quantised.codes_stride");
  REFUSED(good, p.quantised.scales_stride = 1, kInvalid, 1, 2, "rms_norm: quantised.scales_stride");
  REFUSED(good, p.quantised.scale_type = static_cast<ops::ScaleType>(5), kUnsupported, 5, 0,
          "rms_norm: quantised.scale_type");
  REFUSED(good, p.quantised.scale_layout = static_cast<ops::ScaleLayout>(6), kUnsupported, 6, 0,
          "rms_norm: quantised.scale_layout");
  REFUSED(good, p.dtype = kNoType, kUnsupported, 9, 0, "rms_norm: dtype");
  REFUSED(good, p.x = nullptr, kInvalid, 0, 0, "rms_norm: x must not be null");
  REFUSED(good, (p.out = nullptr, p.quantised.codes = nullptr), kInvalid, 0, 0, "must not both be null");
  REFUSED(good, p.quantised.scales = nullptr, kInvalid, 0, 0, "rms_norm: quantised.scales must not be null");
  REFUSED(good, p.x = at(3, 1), kInvalid, 0, 0, "rms_norm: x must be aligned");
  REFUSED(good, p.out = at(0, 1), kInvalid, 0, 0, "rms_norm: out must be aligned");
  REFUSED(good, p.weight = at<float>(2, 2), kInvalid, 0, 0, "rms_norm: weight must be aligned");
  REFUSED(good, (p.quantised.scales = at(2, 2), p.quantised.scale_type = ops::ScaleType::kF32), kInvalid, 0,
          0, "rms_norm: quantised.scales must be aligned");
  REFUSED(good, (p.out = at(3), p.out_stride = 137), kInvalid, 137, 136, "rms_norm: out_stride = x_stride");
}

TEST_CASE("act_quant refuses", "[ops][act_quant][errors]") {
  clear_memory();
  const ops::ActQuantParams good{
      .codes = at(0), .scales = at(1), .x = at(2), .rows = 2, .n = 130, .block = 64};
  ops::ActQuantParams fp4 = good;
  fp4.format = ops::QuantFormat::kE2m1, fp4.block = 32;
  REQUIRE(call(good).ok());
  REQUIRE(call(fp4).ok());
  check_empty(ops::ActQuantParams{.n = 8, .block = 128}, &ops::ActQuantParams::rows);
  REFUSED(good, p.rows = -1, kInvalid, -1, 0, "act_quant: rows");
  REFUSED(good, p.rows = kTwo31, kInvalid, kTwo31, 0, "act_quant: rows");
  REFUSED(good, p.n = 0, kInvalid, 0, 0, "act_quant: n in");
  REFUSED(good, p.n = kTwo31, kInvalid, kTwo31, 0, "act_quant: n in");
  REFUSED(good, p.format = static_cast<ops::QuantFormat>(7), kUnsupported, 7, 0, "act_quant: format");
  REFUSED(good, p.block = 32, kUnsupported, 32, 0, "act_quant: block of e4m3");
  REFUSED(fp4, p.block = 64, kUnsupported, 64, 32, "act_quant: block of e2m1");
  REFUSED(fp4, p.n = 33, kInvalid, 33, 0, "act_quant: n of e2m1");
  REFUSED(good, p.x_stride = 129, kInvalid, 129, 130, "act_quant: x_stride");
  REFUSED(good, p.codes_stride = 129, kInvalid, 129, 130, "act_quant: codes_stride");
  REFUSED(fp4, p.codes_stride = 64, kInvalid, 64, 65, "act_quant: codes_stride");
  REFUSED(good, p.scales_stride = 2, kInvalid, 2, 3, "act_quant: scales_stride");
  REFUSED(good, (p.scales_stride = 1, p.scale_layout = ops::ScaleLayout::kColumnMajor), kInvalid, 1, 2,
          "act_quant: scales_stride");
  REFUSED(good, p.scale_type = static_cast<ops::ScaleType>(5), kUnsupported, 5, 0, "act_quant: scale_type");
  REFUSED(good, p.scale_layout = static_cast<ops::ScaleLayout>(6), kUnsupported, 6, 0,
          "act_quant: scale_layout");
  REFUSED(good, p.dtype = kNoType, kUnsupported, 9, 0, "act_quant: dtype");
  REFUSED(good, p.codes = nullptr, kInvalid, 0, 0, "act_quant: codes");
  REFUSED(good, p.scales = nullptr, kInvalid, 0, 0, "act_quant: codes, scales");
  REFUSED(good, p.x = nullptr, kInvalid, 0, 0, "and x must not be null");
  REFUSED(good, p.x = at(2, 1), kInvalid, 0, 0, "act_quant: x must be aligned");
  REFUSED(good, (p.scales = at(1, 1), p.scale_type = ops::ScaleType::kF32), kInvalid, 0, 0,
          "act_quant: scales must be aligned");
}

TEST_CASE("rope refuses", "[ops][rope][errors]") {
  clear_memory();
  const ops::RopeParams good{.out = at(0),
                             .x = at(0),
                             .positions = at(1),
                             .table = {.freq = at<float>(2)},
                             .tokens = 2,
                             .heads = 2,
                             .head_dim = 72,
                             .rope_dim = 64};
  ops::RopeParams table = good;
  table.table = {.cos = at<float>(2), .sin = at<float>(3), .max_position = 1};
  REQUIRE(call(good).ok());
  REQUIRE(call(table).ok());
  check_empty(ops::RopeParams{.heads = 1, .head_dim = 64, .rope_dim = 64}, &ops::RopeParams::tokens);
  REFUSED(good, p.tokens = -1, kInvalid, -1, 0, "rope: tokens");
  REFUSED(good, p.tokens = kTwo31, kInvalid, kTwo31, 0, "rope: tokens");
  REFUSED(good, p.heads = 0, kInvalid, 0, 0, "rope: heads");
  REFUSED(good, p.heads = kTwo31, kInvalid, kTwo31, 0, "rope: heads");
  REFUSED(good, p.rope_dim = 32, kUnsupported, 32, 64, "rope: rope_dim must be 64");
  REFUSED(good, p.head_dim = 63, kInvalid, 63, 64, "rope: head_dim");
  REFUSED(good, p.head_dim = kTwo31, kInvalid, kTwo31, 64, "rope: head_dim");
  REFUSED(good, p.direction = static_cast<ops::RopeDirection>(4), kUnsupported, 4, 0, "rope: direction");
  REFUSED(good, p.position_type = static_cast<ops::PositionType>(5), kUnsupported, 5, 0,
          "rope: position_type");
  REFUSED(good, p.out_head_stride = 71, kInvalid, 71, 72, "rope: out_head_stride");
  REFUSED(good, p.x_head_stride = 71, kInvalid, 71, 72, "rope: x_head_stride");
  REFUSED(good, p.table.table_stride = 31, kInvalid, 31, 32, "rope: table.table_stride");
  REFUSED(good, p.out_stride = 143, kInvalid, 143, 144, "rope: out_stride");
  REFUSED(good, p.x_stride = 143, kInvalid, 143, 144, "rope: x_stride");
  REFUSED(good, (p.tokens = kTwo30, p.heads = 17), kInvalid, kTwo31, kTwo31 - 1, "rope: tokens *");
  REFUSED(good, p.dtype = kNoType, kUnsupported, 9, 0, "rope: dtype");
  REFUSED(good, p.out = nullptr, kInvalid, 0, 0, "rope: out must not be null");
  REFUSED(good, p.x = nullptr, kInvalid, 0, 0, "rope: x must not be null");
  REFUSED(good, p.positions = nullptr, kInvalid, 0, 0, "positions must not be null");
  REFUSED(good, p.table.freq = nullptr, kInvalid, 0, 0,
          "rope: table must give either freq or both of cos and sin");
  REFUSED(good, p.table.cos = at<float>(3), kInvalid, 0, 0,
          "rope: table must give either freq or both of cos and sin");
  REFUSED(table, p.table.sin = nullptr, kInvalid, 0, 0,
          "rope: table must give either freq or both of cos and sin");
  REFUSED(table, p.table.max_position = 0, kInvalid, 0, 1, "rope: table.max_position");
  REFUSED(good, p.out = at(0, 1), kInvalid, 1, 2, "rope: out must be aligned");
  REFUSED(good, p.x = at(0, 1), kInvalid, 1, 2, "rope: x must be aligned");
  REFUSED(good, p.positions = at(1, 2), kInvalid, 2, 4, "rope: positions must be aligned");
  REFUSED(good, (p.positions = at(1, 4), p.position_type = ops::PositionType::kInt64), kInvalid, 4, 8,
          "rope: positions must be aligned");
  REFUSED(good, p.table.freq = at<float>(2, 2), kInvalid, 2, 4, "rope: table.freq must be aligned");
  REFUSED(table, p.table.sin = at<float>(3, 2), kInvalid, 2, 4, "rope: table.sin must be aligned");
  REFUSED(good, p.out_stride = 200, kInvalid, 200, 144, "rope: out_stride = x_stride");
  REFUSED(good, (p.out_head_stride = 80, p.out_stride = 200, p.x_stride = 200), kInvalid, 80, 72,
          "rope: out_head_stride = x_head_stride");
}

TEST_CASE("hadamard refuses", "[ops][hadamard][errors]") {
  clear_memory();
  const ops::HadamardParams good{.out = at(0), .x = at(0), .rows = 2, .n = 128};
  REQUIRE(call(good).ok());
  check_empty(ops::HadamardParams{.n = 128}, &ops::HadamardParams::rows);
  REFUSED(good, p.rows = -1, kInvalid, -1, 0, "hadamard: rows");
  REFUSED(good, p.rows = kTwo31, kInvalid, kTwo31, 0, "hadamard: rows");
  REFUSED(good, p.n = 64, kUnsupported, 64, 128, "hadamard: only n = 128");
  REFUSED(good, p.out_stride = 127, kInvalid, 127, 128, "hadamard: out_stride");
  REFUSED(good, p.x_stride = 127, kInvalid, 127, 128, "hadamard: x_stride");
  REFUSED(good, p.dtype = kNoType, kUnsupported, 9, 0, "hadamard: dtype");
  REFUSED(good, p.out = nullptr, kInvalid, 0, 0, "hadamard: out");
  REFUSED(good, p.x = nullptr, kInvalid, 0, 0, "and x must not be null");
  REFUSED(good, p.out = at(1, 1), kInvalid, 0, 0, "hadamard: out must be aligned");
  REFUSED(good, p.x = at(1, 1), kInvalid, 0, 0, "hadamard: x must be aligned");
  REFUSED(good, p.out_stride = 136, kInvalid, 136, 128, "hadamard: out_stride = x_stride");
}

TEST_CASE("lm_head refuses", "[ops][lm_head][errors]") {
  clear_memory();
  const ops::LmHeadParams good{
      .logits = at<float>(0), .x = at(1), .head = at(2), .tokens = 2, .vocab = 5, .hidden = 16};
  REQUIRE(call(good).ok());
  check_empty(ops::LmHeadParams{.vocab = 5, .hidden = 16}, &ops::LmHeadParams::tokens);
  REFUSED(good, p.tokens = -1, kInvalid, -1, 0, "lm_head: tokens");
  REFUSED(good, p.tokens = kTwo31, kInvalid, kTwo31, 0, "lm_head: tokens");
  REFUSED(good, p.vocab = 0, kInvalid, 0, 1000000, "lm_head: vocab");
  REFUSED(good, p.vocab = 1000001, kInvalid, 1000001, 1000000, "lm_head: vocab");
  REFUSED(good, p.hidden = 0, kInvalid, 0, kTwo30, "lm_head: hidden");
  REFUSED(good, p.hidden = kTwo30 + 1, kInvalid, kTwo30 + 1, kTwo30, "lm_head: hidden");
  REFUSED(good, p.logits_stride = 4, kInvalid, 4, 5, "lm_head: logits_stride");
  REFUSED(good, p.x_stride = 15, kInvalid, 15, 16, "lm_head: x_stride");
  REFUSED(good, p.head_stride = 15, kInvalid, 15, 16, "lm_head: head_stride");
  REFUSED(good, p.head_dtype = kNoType, kUnsupported, 9, 0, "lm_head: head_dtype");
  REFUSED(good, p.dtype = kNoType, kUnsupported, 9, 0, "lm_head: dtype");
  REFUSED(good, p.logits = nullptr, kInvalid, 0, 0, "lm_head: logits");
  REFUSED(good, p.x = nullptr, kInvalid, 0, 0, "lm_head: logits, x");
  REFUSED(good, p.head = nullptr, kInvalid, 0, 0, "and head must not be null");
  REFUSED(good, p.rows = at<std::int32_t>(3), kInvalid, 0, 1, "lm_head: x_rows");
  REFUSED(good, p.logits = at<float>(0, 2), kInvalid, 0, 0, "lm_head: logits must be aligned");
  REFUSED(good, (p.rows = at<std::int32_t>(3, 2), p.x_rows = 2), kInvalid, 0, 0,
          "lm_head: rows must be aligned");
  REFUSED(good, p.x = at(1, 1), kInvalid, 0, 0, "lm_head: x must be aligned");
  REFUSED(good, p.head = at(2, 1), kInvalid, 0, 0, "lm_head: head must be aligned");
  REFUSED(good, (p.head = at(2, 2), p.head_dtype = ops::DType::kF32), kInvalid, 0, 0,
          "lm_head: head must be aligned");
}
