// Op attn_compress refuses what it cannot do, with a message that names the argument, before it touches
// anything.
#include "tests/ops/attn_compress_case.hpp"

using namespace dsv4;
using namespace dsv4::test;
using ops::AttnCompressParams;
using ops::CacheFormat;

namespace {

struct Refusal {
  const char* text;
  Code code;
  std::int64_t value, limit;
  void (*change)(AttnCompressParams&);
};

constexpr Code kInvalid = Code::kInvalidArgument, kUnsupported = Code::kUnsupported;

}  // namespace

TEST_CASE("attn_compress refuses bad parameters", "[ops][attn_compress][errors]") {
  CompressCase<bf16> c({});
  c.lay_out({{0, 0, 9}});
  const auto before = c.state();
  const Refusal refusals[] = {
      {"attn_compress: tokens", kInvalid, -1, INT32_MAX, [](auto& p) { p.tokens = -1; }},
      {"tokens must be 0", kInvalid, std::int64_t{1} << 31, INT32_MAX,
       [](auto& p) { p.tokens = std::int64_t{1} << 31; }},
      {"sequences", kInvalid, -1, INT32_MAX, [](auto& p) { p.sequences = -1; }},
      {"tokens and sequences must fit one launch", kInvalid, std::int64_t{INT32_MAX} + 1, INT32_MAX,
       [](auto& p) { p.tokens = 4, p.sequences = INT32_MAX, p.index.kv = nullptr; }},
      {"states", kInvalid, -1, 0, [](auto& p) { p.states = -1; }},
      {"ratio must be 4 or 128", kUnsupported, 8, 0, [](auto& p) { p.ratio = 8; }},
      {"max_rollback", kInvalid, -1, 1024, [](auto& p) { p.max_rollback = -1; }},
      {"max_rollback", kInvalid, 1025, 1024, [](auto& p) { p.max_rollback = 1025; }},
      {"index is for ratio 4 alone", kInvalid, 128, 4, [](auto& p) { p.ratio = 128; }},
      {"start_type", kUnsupported, 2, 0, [](auto& p) { p.start_type = static_cast<ops::PositionType>(2); }},
      {"rope_dim", kUnsupported, 32, 64, [](auto& p) { p.rope_dim = 32; }},
      {"rope.table_stride", kInvalid, 31, 32, [](auto& p) { p.rope.table_stride = 31; }},
      {"main.dim", kUnsupported, 256, 512, [](auto& p) { p.main.dim = 256; }},
      {"index.dim", kUnsupported, 512, 128, [](auto& p) { p.index.dim = 512; }},
      {"main.entries.format", kUnsupported, 2, 0,
       [](auto& p) { p.main.entries.format = CacheFormat::kIndexFp4; }},
      {"index.entries.format", kUnsupported, 1, 0,
       [](auto& p) { p.index.entries.format = CacheFormat::kKv584; }},
      {"main.entries.dtype", kUnsupported, 1, 0,
       [](auto& p) { p.main.entries.format = CacheFormat::kRows, p.main.entries.dtype = ops::DType::kF32; }},
      {"main.entries.slots", kInvalid, -1, INT32_MAX, [](auto& p) { p.main.entries.slots = -1; }},
      {"index.entries.page_rows", kInvalid, 0, 1, [](auto& p) { p.index.entries.page_rows = 0; }},
      {"main.kv_stride must be at least a row", kInvalid, 1020, 1024,
       [](auto& p) { p.main.kv_stride = 1020; }},
      {"main.kv_stride must be a multiple", kInvalid, 1026, 4, [](auto& p) { p.main.kv_stride = 1026; }},
      {"index.gate_stride must be at least a row", kInvalid, 128, 256,
       [](auto& p) { p.index.gate_stride = 128; }},
      {"main.state_stride must hold a state", kInvalid, 188400, 188416,
       [](auto& p) { p.main.state_stride = 188400; }},
      {"index.state_stride must be a multiple", kInvalid, 47128, 16,
       [](auto& p) { p.index.state_stride = 47128; }},
      {"first_token must not be null", kInvalid, 0, 0, [](auto& p) { p.first_token = nullptr; }},
      {"start must not be null", kInvalid, 0, 0, [](auto& p) { p.start = nullptr; }},
      {"rope must give either", kInvalid, 0, 0, [](auto& p) { p.rope.freq = nullptr; }},
      {"main.gate must not be null", kInvalid, 0, 0, [](auto& p) { p.main.gate = nullptr; }},
      {"main.ape must not be null", kInvalid, 0, 0, [](auto& p) { p.main.ape = nullptr; }},
      {"index.norm must not be null", kInvalid, 0, 0, [](auto& p) { p.index.norm = nullptr; }},
      {"main.state must not be null", kInvalid, 0, 0, [](auto& p) { p.main.state = nullptr; }},
      {"main.entry_slots must not be null", kInvalid, 0, 0, [](auto& p) { p.main.entry_slots = nullptr; }},
      {"index.entries.data must not be null", kInvalid, 0, 0,
       [](auto& p) { p.index.entries.data = nullptr; }},
      {"main.kv must be aligned", kInvalid, 4, 16, [](auto& p) { ++p.main.kv; }},
      {"index.gate must be aligned", kInvalid, 4, 16, [](auto& p) { ++p.index.gate; }},
      {"main.ape must be aligned", kInvalid, 4, 16, [](auto& p) { ++p.main.ape; }},
      {"main.norm must be aligned", kInvalid, 4, 16, [](auto& p) { ++p.main.norm; }},
      {"index.state must be aligned", kInvalid, 8, 16,
       [](auto& p) { p.index.state = static_cast<std::uint8_t*>(p.index.state) + 8; }},
  };
  for (const Refusal& r : refusals) {
    AttnCompressParams p = c.params();
    r.change(p);
    CAPTURE(r.text);
    REQUIRE_REFUSED(ops::attn_compress(p, nullptr), r.code, r.value, r.limit, r.text);
  }
  c.expect_nothing();
  REQUIRE(c.check() == "");
  REQUIRE((c.state() == before));
}

TEST_CASE("attn_compress of nothing is ok and launches nothing", "[ops][attn_compress][errors]") {
  CompressCase<bf16> c({});
  c.lay_out({{0, 0, 9}});
  AttnCompressParams p = c.params();
  p.first_token = nullptr, p.start = nullptr, p.rope = {};
  p.tokens = 0;
  REQUIRE_OK(ops::attn_compress(p, nullptr));
  p = c.params();
  p.sequences = 0, p.first_token = nullptr;
  REQUIRE_OK(ops::attn_compress(p, nullptr));
  p = c.params();
  p.main = {}, p.index = {};
  REQUIRE_OK(ops::attn_compress(p, nullptr));
  p = c.params();  // no states: everybody is skipped
  p.states = 0, p.main.state = nullptr, p.index.state = nullptr;
  REQUIRE_OK(ops::attn_compress(p, nullptr));
  c.expect_nothing();
  REQUIRE(c.check() == "");
  // No cache: the state is kept all the same.
  p = c.params();
  p.main.entries.slots = 0, p.main.entries.data = nullptr;
  p.index.entries.slots = 0, p.index.entries.data = nullptr;
  REQUIRE_OK(ops::attn_compress(p, nullptr));
  REQUIRE(c.check() == "");
  c.append({{0, 9, 3}});
}

TEST_CASE("attn_compress_state_bytes", "[ops][attn_compress][errors]") {
  REQUIRE(ops::attn_compress_state_bytes(4, 512, 16) == 188416);
  REQUIRE(ops::attn_compress_state_bytes(4, 128, 16) == 47104);
  REQUIRE(ops::attn_compress_state_bytes(128, 512, 16) == 133136);
  REQUIRE(ops::attn_compress_state_bytes(128, 512, 0) == 67600);
  REQUIRE(ops::attn_compress_state_bytes(128, 128, 16) == 0);
  REQUIRE(ops::attn_compress_state_bytes(8, 512, 16) == 0);
  REQUIRE(ops::attn_compress_state_bytes(4, 256, 16) == 0);
  REQUIRE(ops::attn_compress_state_bytes(4, 512, -1) == 0);
  REQUIRE(ops::attn_compress_state_bytes(4, 512, 1025) == 0);
}
