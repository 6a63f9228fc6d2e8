// Op attn_kv_proj on the SIMT machine: bit for bit its primitive, cache bytes included;
// within the oracle's intervals; nothing else touched.
#include "tests/ops/attn_prep.hpp"
#include "tests/support/sparse.hpp"

#include <cmath>
#include <limits>

using namespace dsv4;
using ops::CacheFormat;
using test::kHeadDim;
using test::kPrepEps;
using test::kRopeDim;
using test::RowLayout;
using test::Rows;
namespace oracle = test::oracle;

namespace {

template <class T>
struct KeyValues {
  std::int64_t tokens;
  std::vector<T> values = test::prep_values<T>(tokens * kHeadDim, 2, 4.0);
  std::vector<std::int32_t> positions = test::prep_positions(tokens);
  std::vector<float> freq = test::prep_frequencies();
  std::vector<float> weight = test::uniform(kHeadDim, 3, -0.5, 2.0);
  Rows<float> norm = Rows<float>(1, kHeadDim, weight);
  Rows<T> kv = Rows<T>(tokens, kHeadDim, values, RowLayout{kHeadDim + 24, 16});
  Rows<T> out = Rows<T>(tokens, kHeadDim, RowLayout{kHeadDim + 8, 16});

  explicit KeyValues(std::int64_t n) : tokens(n) {}

  void set(const std::vector<T>& v) {
    values = v;
    kv.set(v);
  }
  std::vector<T> finished() const { return test::finished_key_values(values, weight, positions); }
  ops::AttnKvProjParams params(const ops::CachePool& window, const std::int32_t* slots) {
    return {.window = window,
            .slots = slots,
            .out = out.data(),
            .kv = kv.data(),
            .norm = norm.data(),
            .positions = positions.data(),
            .rope = {.freq = freq.data()},
            .tokens = tokens,
            .head_dim = kHeadDim,
            .rope_dim = kRopeDim,
            .eps = kPrepEps,
            .dtype = test::kDType<T>,
            .out_stride = out.stride(),
            .kv_stride = kv.stride()};
  }
};

// The pages that the primitive leaves, in the same poison.
template <class T>
std::vector<std::uint8_t> written_pages(const test::KvPages& like, std::int64_t padding,
                                        const std::vector<T>& rows, const std::vector<std::int32_t>& slots) {
  test::KvPages want(like.pool.slots, like.pool.page_rows, padding);
  const auto pool = want.primitive();
  for (std::size_t t = 0; t < slots.size(); ++t)
    if (slots[t] >= 0 && slots[t] < want.pool.slots)
      pool.write(SerialCoop{}, slots[t], rows.data() + t * kHeadDim);
  return want.bytes.values();
}

}  // namespace

TEMPLATE_TEST_CASE("attn_kv_proj writes the bytes of 584-byte entries", "[ops][attn_kv_proj]", bf16, float) {
  const std::int32_t page_rows = GENERATE(1, 2, 53, 64, 256);
  const std::int64_t padding = GENERATE(0, 16, 560);
  for (const std::int64_t tokens : {0, 1, 12}) {
    CAPTURE(page_rows, padding, tokens, sizeof(TestType));
    const std::int64_t slots = 2 * page_rows + 7;  // the last page is not full where it holds several rows
    test::KvPages window(slots, page_rows, padding);
    KeyValues<TestType> in(tokens);
    const auto at = test::prep_slots(tokens, slots);
    REQUIRE_OK(ops::attn_kv_proj(in.params(window.pool, at.data()), nullptr));
    const auto rows = in.finished();
    REQUIRE_ROWS(window.bytes, written_pages(window, padding, rows, at));
    REQUIRE_ROWS(in.out, test::through_entries(rows));
    REQUIRE_ROWS(in.kv, in.values);
  }
}

TEMPLATE_TEST_CASE("attn_kv_proj writes plain rows", "[ops][attn_kv_proj]", bf16, float) {
  using T = TestType;
  const std::int64_t tokens = 10, slots = 13, padding = GENERATE(0, 8);
  Rows<T> window(slots, kHeadDim, RowLayout{kHeadDim + padding, 16}), want(slots, kHeadDim);
  KeyValues<T> in(tokens);
  const auto at = test::prep_slots(tokens, slots);
  REQUIRE_OK(ops::attn_kv_proj(in.params({.data = window.data(),
                                          .dtype = test::kDType<T>,
                                          .slots = slots,
                                          .stride = padding == 0 ? 0 : window.stride()},
                                         at.data()),
                               nullptr));
  const auto rows = in.finished();
  for (std::size_t t = 0; t < at.size(); ++t)
    if (at[t] >= 0 && at[t] < slots)
      std::memcpy(want.row(at[t]), rows.data() + t * kHeadDim, kHeadDim * sizeof(T));
  REQUIRE_ROWS(window, want.values());
  REQUIRE_ROWS(in.out, rows);
}

TEMPLATE_TEST_CASE("attn_kv_proj computes its equation", "[ops][attn_kv_proj]", bf16, float) {
  using T = TestType;
  const std::int64_t tokens = 3;
  test::KvPages window(tokens, 2, 0);
  KeyValues<T> in(tokens);
  const std::vector<std::int64_t> turned = {77, 65537, (1 << 20) - 4};
  std::vector<float> cos, sin;
  for (const std::int64_t position : turned)
    for (const auto& a : oracle::turns(position)) cos.push_back(a.cos), sin.push_back(a.sin);
  in.positions = {0, 1, 2};
  const std::vector<std::int32_t> slots = {2, 0, 1};
  auto p = in.params(window.pool, slots.data());
  p.rope = {.cos = cos.data(), .sin = sin.data(), .max_position = tokens};
  REQUIRE_OK(ops::attn_kv_proj(p, nullptr));
  auto plain = p;
  Rows<T> row(tokens, kHeadDim);
  plain.window = {}, plain.slots = nullptr, plain.out = row.data(), plain.out_stride = 0;
  REQUIRE_OK(ops::attn_kv_proj(plain, nullptr));
  for (std::size_t t = 0; t < turned.size(); ++t) {
    const std::vector<T> x(in.values.begin() + static_cast<std::ptrdiff_t>(t) * kHeadDim,
                           in.values.begin() + static_cast<std::ptrdiff_t>(t + 1) * kHeadDim);
    auto want = test::rounded<T>(oracle::rms_norm(test::values(x), test::values(in.weight), kPrepEps));
    oracle::rotate(want, kHeadDim - kRopeDim, oracle::turns(turned[t]), +1);
    const T* got = row.row(static_cast<std::int64_t>(t));
    const std::vector<T> finished(got, got + kHeadDim);
    REQUIRE(test::outside(finished, test::rounded<T>(want)) == "");
    // The entry of that row by the description of the format, and `out` as that entry decodes.
    std::vector<std::uint8_t> page(1168);
    oracle::put_kv_entry(page.data(), 2, slots[t] % 2, test::values(finished));
    const std::uint8_t* written = window.bytes.row(slots[t] / 2);
    const auto begin = static_cast<std::size_t>(slots[t] % 2);
    CAPTURE(t);
    REQUIRE(std::memcmp(written + 576 * begin, page.data() + 576 * begin, 576) == 0);
    REQUIRE(std::memcmp(written + 1152 + 8 * begin, page.data() + 1152 + 8 * begin, 8) == 0);
    const auto back = oracle::get_kv_entry(page.data(), 2, slots[t] % 2);
    for (int d = 0; d < kHeadDim; ++d)
      REQUIRE(test::value(in.out.row(static_cast<std::int64_t>(t))[d]) == back[static_cast<std::size_t>(d)]);
  }
}

TEST_CASE("attn_kv_proj: no cache, no output, in place", "[ops][attn_kv_proj]") {
  KeyValues<bf16> in(5);
  test::KvPages window(5, 4, 0);
  const std::vector<std::int32_t> slots = {4, 3, 2, 1, 0};
  const auto rows = in.finished();
  auto p = in.params(window.pool, slots.data());
  p.out = nullptr;
  REQUIRE_OK(ops::attn_kv_proj(p, nullptr));
  REQUIRE_ROWS(window.bytes, written_pages(window, 0, rows, slots));
  REQUIRE_ROWS(in.out, Rows<bf16>(5, kHeadDim).values());  // not written

  p = in.params({.format = CacheFormat::kKv584}, nullptr);  // the entry's values without the entry
  REQUIRE_OK(ops::attn_kv_proj(p, nullptr));
  REQUIRE_ROWS(in.out, test::through_entries(rows));

  p = in.params({}, nullptr);
  p.out = in.kv.data(), p.out_stride = in.kv.stride();
  REQUIRE_OK(ops::attn_kv_proj(p, nullptr));
  REQUIRE_ROWS(in.kv, rows);
}

TEMPLATE_TEST_CASE("attn_kv_proj: a NaN or inf spoils its own row alone", "[ops][attn_kv_proj]", bf16,
                   float) {
  using T = TestType;
  const float bad =
      GENERATE(as<float>{}, std::numeric_limits<float>::quiet_NaN(), -std::numeric_limits<float>::infinity());
  const std::int64_t tokens = 6;
  KeyValues<T> in(tokens);
  auto values = in.values;
  constexpr int kChannel = 200;
  values[2 * kHeadDim + kChannel] = from_float<T>(bad);
  in.set(values);
  test::KvPages window(tokens, 4, 0);
  const std::vector<std::int32_t> slots = {0, 1, 2, 3, 4, 5};
  REQUIRE_OK(ops::attn_kv_proj(in.params(window.pool, slots.data()), nullptr));
  const auto rows = in.finished();
  const auto pool = window.primitive();
  for (std::int64_t t = 0; t < tokens; ++t) {
    CAPTURE(t, bad);
    if (t == 2) {  // an inf makes the others of its row zeros: NaN in its own channel alone
      for (int b = 0; b < 7; ++b)
        REQUIRE((pool.scales_of(t)[b] == 255) == (std::isnan(bad) || b == kChannel / 64));
      continue;
    }
    float want[kHeadDim], got[kHeadDim];
    alignas(16) std::uint8_t page[592];
    const attention::KvPagePool alone{page, 592, 1, 1};
    alone.write(SerialCoop{}, 0, rows.data() + t * kHeadDim);
    alone.read(0, want);
    pool.read(t, got);
    REQUIRE(std::memcmp(want, got, sizeof want) == 0);
    REQUIRE(std::memcmp(alone.scales_of(0), pool.scales_of(t), 8) == 0);
  }
  REQUIRE(window.bytes.intact() == "");
}

TEST_CASE("attn_kv_proj reaches slots more than 2^31 elements away", "[ops][attn_kv_proj]") {
  KeyValues<bf16> in(3);
  const auto rows = in.finished();
  const std::int64_t stride = (std::int64_t{1} << 31) + 16;
  const std::vector<std::int32_t> slots = {2, -1, 1};
  {
    const test::Sparse memory(static_cast<std::size_t>(3 * stride) * sizeof(bf16));
    REQUIRE_OK(ops::attn_kv_proj(
        in.params({.data = memory.data(), .slots = 3, .stride = stride}, slots.data()), nullptr));
    const bf16* data = static_cast<const bf16*>(memory.data());
    REQUIRE(std::memcmp(data + 2 * stride, rows.data(), kHeadDim * sizeof(bf16)) == 0);
    REQUIRE(std::memcmp(data + stride, rows.data() + 2 * kHeadDim, kHeadDim * sizeof(bf16)) == 0);
  }
  const test::Sparse memory(static_cast<std::size_t>(3 * stride));
  const attention::KvPagePool pool{static_cast<std::uint8_t*>(memory.data()), stride, 1, 3};
  REQUIRE_OK(ops::attn_kv_proj(in.params({.data = memory.data(),
                                          .format = CacheFormat::kKv584,
                                          .slots = 3,
                                          .stride = stride,
                                          .page_rows = 1},
                                         slots.data()),
                               nullptr));
  const auto back = test::through_entries(rows);
  for (const int t : {0, 2}) {
    float got[kHeadDim];
    pool.read(slots[static_cast<std::size_t>(t)], got);
    for (int d = 0; d < kHeadDim; ++d)
      REQUIRE(got[d] == to_float(back[static_cast<std::size_t>(t * kHeadDim + d)]));
  }
}

TEST_CASE("attn_kv_proj takes int64 slots", "[ops][attn_kv_proj]") {
  const std::int64_t tokens = 24, slots = 41;
  const auto at = test::prep_slots(tokens, slots);
  const auto wide = test::wide_slots(at, slots);
  KeyValues<bf16> in(tokens);
  const auto rows = in.finished();
  test::KvPages pages(slots, 4, 16);
  auto p = in.params(pages.pool, nullptr);
  p.slots = wide.data(), p.slot_type = ops::SlotType::kInt64;
  REQUIRE_OK(ops::attn_kv_proj(p, nullptr));
  REQUIRE_ROWS(pages.bytes, written_pages(pages, 16, rows, at));

  Rows<bf16> plain(slots, kHeadDim), narrow(slots, kHeadDim);
  p.window = {.data = plain.data(), .slots = slots};
  REQUIRE_OK(ops::attn_kv_proj(p, nullptr));
  REQUIRE_OK(ops::attn_kv_proj(in.params({.data = narrow.data(), .slots = slots}, at.data()), nullptr));
  REQUIRE_ROWS(plain, narrow.values());

  p.slots = reinterpret_cast<const std::byte*>(wide.data()) + 4;
  REQUIRE_REFUSED(ops::attn_kv_proj(p, nullptr), Code::kInvalidArgument, 4, 8, "slots must be aligned");
  p.slot_type = static_cast<ops::SlotType>(2);
  REQUIRE_REFUSED(ops::attn_kv_proj(p, nullptr), Code::kUnsupported, 2, 0,
                  "slot_type must be int32 or int64");
}
