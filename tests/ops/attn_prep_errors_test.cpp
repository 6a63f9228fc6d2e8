// What attn_q_proj, attn_kv_proj, attn_index_prep and attn_qk_prep refuse, and how: code, value met, limit
// broken, and a message that names the op and the argument. Nothing is launched, nothing written.
#include <dsv4/ops/attn_proj.hpp>
#include <dsv4/simt/counters.hpp>

#include "tests/support/op_buffers.hpp"

#include <cmath>
#include <cstring>

using namespace dsv4;
using ops::CacheFormat;

namespace {

constexpr auto kInvalid = Code::kInvalidArgument;
constexpr auto kUnsupported = Code::kUnsupported;
constexpr std::int64_t kTwo31 = std::int64_t{1} << 31;
const auto kNoType = static_cast<ops::DType>(9);

// Memory for every pointer of a case; what is refused may not touch it.
alignas(64) std::byte memory[10][8192];

template <class T = void>
T* at(int buffer, std::size_t offset = 0) {
  return reinterpret_cast<T*>(memory[buffer] + offset);
}

#define REFUSED(good, change, code, value, limit, text) \
  do {                                                  \
    auto p = (good);                                    \
    change;                                             \
    const auto before = simt::counters().launches;      \
    REQUIRE_REFUSED(call(p), code, value, limit, text); \
    REQUIRE(simt::counters().launches == before);       \
  } while (0)

Status call(const ops::AttnQProjParams& p) { return ops::attn_q_proj(p, nullptr); }
Status call(const ops::AttnKvProjParams& p) { return ops::attn_kv_proj(p, nullptr); }
Status call(const ops::AttnIndexPrepParams& p) { return ops::attn_index_prep(p, nullptr); }
Status call(const ops::AttnQkPrepParams& p) { return ops::attn_qk_prep(p, nullptr); }

// Zeros everywhere, but distinct slots.
void clear_memory() {
  std::memset(memory, 0, sizeof memory);
  at<std::int32_t>(4)[1] = 1;
}

ops::AttnQProjParams queries() {
  return {.out = at(0),
          .q = at(0),
          .positions = at(1),
          .rope = {.freq = at<float>(2)},
          .tokens = 2,
          .heads = 2,
          .head_dim = 512,
          .rope_dim = 64,
          .eps = 1e-6f};
}

ops::AttnKvProjParams key_values() {
  return {.window = {.data = at(3), .format = CacheFormat::kKv584, .slots = 4, .page_rows = 2},
          .slots = at<std::int32_t>(4),
          .out = at(5),
          .kv = at(6),
          .norm = at<float>(7),
          .positions = at(1),
          .rope = {.freq = at<float>(2)},
          .tokens = 2,
          .head_dim = 512,
          .rope_dim = 64,
          .eps = 1e-6f};
}

ops::AttnIndexPrepParams index_queries() {
  return {.codes = at(8),
          .scales = at(8, 4096),
          .weights_out = at<float>(8, 6144),
          .q = at(9),
          .weights = at(9, 4096),
          .positions = at(1),
          .rope = {.freq = at<float>(2)},
          .tokens = 2,
          .heads = 3,
          .dim = 128,
          .rope_dim = 64};
}

// Sizes, types and angles, which the three parts share.
template <class P>
void check_common(const P& good) {
  clear_memory();
  REQUIRE(call(good).ok());
  P empty = good;
  empty.tokens = 0, empty.positions = nullptr, empty.rope = {};
  REQUIRE(call(empty).ok());
  REFUSED(empty, p.dtype = kNoType, kUnsupported, 9, 0, ": dtype");
  REFUSED(good, p.tokens = -1, kInvalid, -1, kTwo31 - 1, ": tokens");
  REFUSED(good, p.tokens = kTwo31, kInvalid, kTwo31, kTwo31 - 1, ": tokens");
  REFUSED(good, p.rope_dim = 32, kUnsupported, 32, 64, ": rope_dim");
  REFUSED(good, p.position_type = static_cast<ops::PositionType>(5), kUnsupported, 5, 0, ": position_type");
  REFUSED(good, p.rope.table_stride = 31, kInvalid, 31, 32, ": rope.table_stride");
  REFUSED(good, p.positions = nullptr, kInvalid, 0, 0, ": positions must not be null");
  REFUSED(good, p.positions = at(1, 2), kInvalid, 2, 4, ": positions must be aligned");
  REFUSED(good, (p.positions = at(1, 4), p.position_type = ops::PositionType::kInt64), kInvalid, 4, 8,
          ": positions must be aligned");
  REFUSED(good, p.rope = {}, kInvalid, 0, 0, ": rope must give either freq or both of cos and sin");
  REFUSED(good, p.rope.sin = at<float>(2), kInvalid, 0, 0, ": rope must give either");
  REFUSED(good, (p.rope = {.cos = at<float>(2), .sin = at<float>(2)}), kInvalid, 0, 1, ": rope.max_position");
  REFUSED(good, p.rope.freq = at<float>(2, 2), kInvalid, 2, 4, ": rope.freq");
}

}  // namespace

TEST_CASE("attn_q_proj refuses", "[ops][attn_q_proj][errors]") {
  const auto good = queries();
  check_common(good);
  REFUSED(good, p.tokens = -1, kInvalid, -1, kTwo31 - 1, "attn_q_proj: tokens");
  REFUSED(good, p.heads = 0, kInvalid, 0, 1024, "attn_q_proj: heads");
  REFUSED(good, p.heads = 1025, kInvalid, 1025, 1024, "attn_q_proj: heads");
  REFUSED(good, p.head_dim = 576, kUnsupported, 576, 512, "attn_q_proj: head_dim");
  REFUSED(good, p.eps = -1.0f, kInvalid, 0, 0, "attn_q_proj: eps");
  REFUSED(good, p.eps = std::nanf(""), kInvalid, 0, 0, "attn_q_proj: eps");
  REFUSED(good, p.out_head_stride = 504, kInvalid, 504, 512, "attn_q_proj: out_head_stride");
  REFUSED(good, p.q_head_stride = 513, kInvalid, 513, 8, "attn_q_proj: q_head_stride");
  REFUSED(good, p.out_stride = 1016, kInvalid, 1016, 1024, "attn_q_proj: out_stride");
  REFUSED(good, p.q_stride = 1028, kInvalid, 1028, 8, "attn_q_proj: q_stride");
  REFUSED(good, p.q_head_stride = 520, kInvalid, 512, 520, "attn_q_proj: out_head_stride must be q_head");
  REFUSED(good, p.q_stride = 1032, kInvalid, 0, 1032, "attn_q_proj: out_stride must be q_stride");
  REFUSED(good, p.out = nullptr, kInvalid, 0, 0, "attn_q_proj: out must not be null");
  REFUSED(good, p.q = nullptr, kInvalid, 0, 0, "attn_q_proj: q must not be null");
  REFUSED(good, p.out = at(3, 8), kInvalid, 8, 16, "attn_q_proj: out must be aligned");
  REFUSED(good, p.q = at(3, 2), kInvalid, 2, 16, "attn_q_proj: q must be aligned");
  REFUSED(good, (p.tokens = kTwo31 - 1, p.heads = 1024, p.out = at(3)), kInvalid, (kTwo31 - 1) * 128,
          kTwo31 - 1, "attn_q_proj: tokens give more");
}

TEST_CASE("attn_kv_proj refuses", "[ops][attn_kv_proj][errors]") {
  const auto good = key_values();
  check_common(good);
  REFUSED(good, p.tokens = -1, kInvalid, -1, kTwo31 - 1, "attn_kv_proj: tokens");
  REFUSED(good, p.head_dim = 128, kUnsupported, 128, 512, "attn_kv_proj: head_dim");
  REFUSED(good, p.eps = -1.0f, kInvalid, 0, 0, "attn_kv_proj: eps");
  REFUSED(good, p.out_stride = 504, kInvalid, 504, 512, "attn_kv_proj: out_stride");
  REFUSED(good, p.kv_stride = 516, kInvalid, 516, 8, "attn_kv_proj: kv_stride");
  REFUSED(good, (p.out = at(6), p.kv_stride = 520), kInvalid, 0, 520, "attn_kv_proj: out_stride must be kv");
  REFUSED(good, p.window.format = CacheFormat::kIndexFp4, kUnsupported, 2, 0, "attn_kv_proj: window.format");
  REFUSED(good, (p.window.format = CacheFormat::kRows, p.window.dtype = ops::DType::kF32), kUnsupported, 1, 0,
          "attn_kv_proj: window.dtype");
  REFUSED(good, p.window.slots = -1, kInvalid, -1, kTwo31 - 1, "attn_kv_proj: window.slots");
  REFUSED(good, p.window.page_rows = 0, kInvalid, 0, 1, "attn_kv_proj: window.page_rows");
  REFUSED(good, p.window.stride = 1152, kInvalid, 1152, 1168, "attn_kv_proj: window.stride must hold");
  REFUSED(good, p.window.stride = 1176, kInvalid, 1176, 16, "attn_kv_proj: window.stride must be a multiple");
  REFUSED(good, p.window.scales = at(3, 4096), kInvalid, 0, 0, "attn_kv_proj: window.scales");
  REFUSED(good, (p.window.format = CacheFormat::kRows, p.window.stride = 508), kInvalid, 508, 512,
          "attn_kv_proj: window.stride");
  REFUSED(good, p.window.data = at(3, 8), kInvalid, 8, 16, "attn_kv_proj: window.data");
  REFUSED(good, p.slots = nullptr, kInvalid, 0, 0, "attn_kv_proj: slots must not be null");
  REFUSED(good, p.slots = at<std::int32_t>(4, 1), kInvalid, 1, 4, "attn_kv_proj: slots must be aligned");
  REFUSED(good, (p.out = nullptr, p.window = {}), kInvalid, 0, 0,
          "attn_kv_proj: out must not be null where there is no cache");
  REFUSED(good, p.out = at(5, 2), kInvalid, 2, 16, "attn_kv_proj: out must be aligned");
  REFUSED(good, p.kv = nullptr, kInvalid, 0, 0, "attn_kv_proj: kv must not be null");
  REFUSED(good, p.kv = at(6, 8), kInvalid, 8, 16, "attn_kv_proj: kv must be aligned");
  REFUSED(good, p.norm = nullptr, kInvalid, 0, 0, "attn_kv_proj: norm must not be null");
  REFUSED(good, p.norm = at<float>(7, 4), kInvalid, 4, 16, "attn_kv_proj: norm must be aligned");
}

TEST_CASE("attn_index_prep refuses", "[ops][attn_index_prep][errors]") {
  const auto good = index_queries();
  check_common(good);
  REFUSED(good, p.tokens = -1, kInvalid, -1, kTwo31 - 1, "attn_index_prep: tokens");
  REFUSED(good, p.heads = 0, kInvalid, 0, 64, "attn_index_prep: heads");
  REFUSED(good, p.heads = 65, kInvalid, 65, 64, "attn_index_prep: heads");
  REFUSED(good, p.dim = 64, kUnsupported, 64, 128, "attn_index_prep: dim");
  REFUSED(good, p.format = CacheFormat::kKv584, kUnsupported, 1, 0, "attn_index_prep: format");
  REFUSED(good, p.q_stride = 376, kInvalid, 376, 384, "attn_index_prep: q_stride");
  REFUSED(good, p.q_stride = 388, kInvalid, 388, 8, "attn_index_prep: q_stride");
  REFUSED(good, p.weights_stride = 2, kInvalid, 2, 3, "attn_index_prep: weights_stride");
  REFUSED(good, p.codes = at(9), kInvalid, 0, 0, "attn_index_prep: codes may be q with kRows");
  REFUSED(good, (p.codes = at(9), p.scales = nullptr, p.format = CacheFormat::kRows, p.q_stride = 392),
          kInvalid, 0, 0, "attn_index_prep: codes may be q with kRows");
  REFUSED(good, p.codes = nullptr, kInvalid, 0, 0, "attn_index_prep: codes must not be null");
  REFUSED(good, p.codes = at(8, 8), kInvalid, 8, 16, "attn_index_prep: codes must be aligned");
  REFUSED(good, p.scales = nullptr, kInvalid, 0, 0, "attn_index_prep: scales must be given with");
  REFUSED(good, p.format = CacheFormat::kIndexFp8, kInvalid, 0, 0, "attn_index_prep: scales must be given");
  REFUSED(good, p.scales = at(8, 4098), kInvalid, 2, 4, "attn_index_prep: scales must be aligned");
  REFUSED(good, p.weights_out = nullptr, kInvalid, 0, 0, "attn_index_prep: weights_out must not be null");
  REFUSED(good, p.weights_out = at<float>(8, 6145), kInvalid, 1, 4, "attn_index_prep: weights_out must be");
  REFUSED(good, p.q = nullptr, kInvalid, 0, 0, "attn_index_prep: q must not be null");
  REFUSED(good, p.q = at(9, 4), kInvalid, 4, 16, "attn_index_prep: q must be aligned");
  REFUSED(good, p.weights = nullptr, kInvalid, 0, 0, "attn_index_prep: weights must not be null");
  REFUSED(good, p.weights = at(9, 4097), kInvalid, 1, 2, "attn_index_prep: weights must be aligned");
}

TEST_CASE("attn_qk_prep refuses, naming the part", "[ops][attn_qk_prep][errors]") {
  clear_memory();
  const ops::AttnQkPrepParams good = {.q = queries(), .kv = key_values(), .index = index_queries()};
  REQUIRE(call(good).ok());
  REQUIRE(call(ops::AttnQkPrepParams{}).ok());  // all absent
  REFUSED(good, p.q.heads = 0, kInvalid, 0, 1024, "attn_qk_prep: q.heads");
  REFUSED(good, p.q.out = nullptr, kInvalid, 0, 0, "attn_qk_prep: q.out");
  REFUSED(good, p.kv.norm = nullptr, kInvalid, 0, 0, "attn_qk_prep: kv.norm");
  REFUSED(good, p.kv.window.page_rows = 0, kInvalid, 0, 1, "attn_qk_prep: kv.window.page_rows");
  REFUSED(good, p.kv.rope.table_stride = 8, kInvalid, 8, 32, "attn_qk_prep: kv.rope.table_stride");
  REFUSED(good, p.index.dim = 64, kUnsupported, 64, 128, "attn_qk_prep: index.dim");
  REFUSED(good, p.index.positions = nullptr, kInvalid, 0, 0, "attn_qk_prep: index.positions");
  REFUSED(good, p.kv.dtype = ops::DType::kF32, kInvalid, 1, 0, "attn_qk_prep: kv.dtype must be q.dtype");
  REFUSED(good, p.index.dtype = ops::DType::kF32, kInvalid, 1, 0, "attn_qk_prep: index.dtype must be");
  REFUSED(good, (p.q.tokens = kTwo31 - 1, p.q.heads = 8, p.q.out = at(3)), kInvalid, kTwo31 + 2, kTwo31 - 1,
          "attn_qk_prep: tokens give more");
  auto bad_but_absent = good;
  bad_but_absent.kv.kv = nullptr, bad_but_absent.kv.head_dim = 7;
  REQUIRE(call(bad_but_absent).ok());
}
