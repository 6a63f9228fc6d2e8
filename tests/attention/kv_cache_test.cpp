// Mirrors include/dsv4/attention/kv_cache.hpp. Every byte is compared with a layout written down from the
// format description (tests/support/oracle_attention.hpp).
#include <dsv4/attention/kv_cache.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <type_traits>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_attention.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"

using namespace dsv4;
using attention::IndexFp4Pool;
using attention::KvPagePool;
using attention::RowPool;
namespace oracle = test::oracle;

namespace {
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

std::int64_t round_up(std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; }

// The tightest stride, the engines' (a multiple of 576), and a roomy one.
std::int64_t kv_stride(int page_entries, int padding) {
  const std::int64_t bytes = 584 * std::int64_t{page_entries};
  return padding == 0 ? round_up(bytes, 16) : padding == 1 ? round_up(bytes, 576) : round_up(bytes, 16) + 160;
}

// 512 channels whose blocks of 64 have very different sizes: ordinary, all zero, below the floor of 1e-4,
// exactly at 448 times a power of two, one step above it, huge; the rope channels are ordinary.
std::vector<float> kv_row(std::uint64_t seed) {
  std::vector<float> row = test::normal(512, seed);
  for (std::size_t d = 0; d < 64; ++d) {
    row[64 + d] *= 0;
    row[128 + d] *= 1e-6f;
    row[192 + d] = d == 9 ? -448.0f : std::fmin(std::fmax(row[192 + d] * 100, -448.0f), 448.0f);
    row[256 + d] = d == 63 ? std::nextafter(448.0f, 500.0f) : row[256 + d];
    row[320 + d] *= 1e30f;
    row[384 + d] *= d == 0 ? 20.0f : 0.01f;
  }
  return row;
}

template <class T>
std::vector<double> quantised_kv(const std::vector<T>& row) {
  std::vector<std::uint8_t> page(584);
  oracle::put_kv_entry(page.data(), 1, 0, test::values(row));
  return oracle::get_kv_entry(page.data(), 1, 0);
}

std::vector<float> as_float(const std::vector<double>& x) { return {x.begin(), x.end()}; }

// Bit for bit, any NaN equal to any.
std::string not_identical(const std::vector<float>& got, const std::vector<float>& want) {
  for (std::size_t i = 0; i < want.size(); ++i)
    if (!test::identical(got[i], want[i]))
      return "element " + std::to_string(i) + ": " + std::to_string(got[i]) + ", want " +
             std::to_string(want[i]);
  return got.size() == want.size() ? "" : "sizes differ";
}
}  // namespace

// ---- 584-byte entries -------------------------------------------------------------------------------------

TEST_CASE("attention::KvPagePool has the published sizes", "[attention][kv_cache]") {
  REQUIRE(KvPagePool::kEntryBytes == 584);
  REQUIRE(KvPagePool::kDataBytes == 576);
  REQUIRE(KvPagePool::kScales == 7);
}

TEMPLATE_TEST_CASE("attention::KvPagePool::write lays out every byte", "[attention][kv_cache]", float, bf16) {
  using T = TestType;
  const int page_entries = GENERATE(1, 2, 53, 64, 256);
  const int padding = GENERATE(0, 1, 2);
  const auto fill = GENERATE(std::uint8_t{0x00}, std::uint8_t{0xa5});
  const std::int64_t stride = kv_stride(page_entries, padding);
  const std::int64_t slots = 2 * page_entries + 1;
  const std::int64_t pages = 3;
  oracle::GuardedBytes got(pages * stride, fill), want(pages * stride, fill);
  const KvPagePool pool{got.data(), stride, page_entries, slots};
  // The first and last of a page, the next page's first, the last of all: neighbours stay as they are.
  for (const std::int64_t slot : std::set<std::int64_t>{0, page_entries - 1, page_entries, slots - 1}) {
    const auto row = test::stored<T>(kv_row(static_cast<std::uint64_t>(slot) + 31));
    pool.write(SerialCoop{}, slot, row.data());
    oracle::put_kv_entry(want.data() + slot / page_entries * stride, page_entries, slot % page_entries,
                         test::values(row));
  }
  CAPTURE(page_entries, stride, int{fill});
  REQUIRE(test::differing(got.all, want.all) == "");
}

TEST_CASE("attention::KvPagePool::write overwrites an older entry and its pad byte",
          "[attention][kv_cache]") {
  oracle::GuardedBytes got(1184, 0xff), want(1184, 0xff);
  const KvPagePool pool{got.data(), 1184, 2, 2};
  for (const std::uint64_t seed : {41u, 42u}) {
    const auto row = kv_row(seed);
    pool.write(SerialCoop{}, 1, row.data());
    oracle::put_kv_entry(want.data(), 2, 1, test::values(row));
  }
  REQUIRE(test::differing(got.all, want.all) == "");
}

TEST_CASE("attention::KvPagePool::read decodes every code and scale exactly", "[attention][kv_cache]") {
  const int page_entries = GENERATE(1, 2, 53, 64, 256);
  const int padding = GENERATE(0, 1, 2);
  const std::int64_t stride = kv_stride(page_entries, padding), slots = 3 * page_entries;
  oracle::GuardedBytes bytes(3 * stride, 0);
  bytes.all =
      test::bytes(static_cast<std::int64_t>(bytes.all.size()), 43);  // NaN codes, NaN scales, NaN rope
  // Scales that keep 448 * 2^k finite in fp32, the subnormal 2^-127 and NaN among them.
  for (std::int64_t slot = 0; slot < slots; ++slot) {
    std::uint8_t* scales =
        bytes.data() + slot / page_entries * stride + 576 * page_entries + 8 * (slot % page_entries);
    for (int b = 0; b < 7; ++b)
      scales[b] = scales[b] % 16 == 0 ? 255 : scales[b] % 16 == 1 ? 0 : scales[b] % 245;
  }
  const auto before = bytes.all;
  const KvPagePool pool{bytes.data(), stride, page_entries, slots};
  for (const std::int64_t slot : std::set<std::int64_t>{0, 1, page_entries - 1, page_entries, slots - 1}) {
    std::vector<float> row(513, 7.0f);
    pool.read(slot, row.data());
    REQUIRE(pool.view(slot, row.data()) == row.data());
    auto want = as_float(
        oracle::get_kv_entry(bytes.data() + slot / page_entries * stride, page_entries, slot % page_entries));
    want.push_back(7.0f);  // nothing is written beyond the row
    CAPTURE(page_entries, stride, slot);
    REQUIRE(not_identical(row, want) == "");
  }
  REQUIRE(test::differing(bytes.all, before) == "");
}

TEST_CASE("attention::KvPagePool decodes all 256 codes", "[attention][kv_cache]") {
  const unsigned scale = GENERATE(0u, 1u, 120u, 127u, 128u, 245u, 255u);
  std::vector<std::uint8_t> page(592);
  for (int i = 0; i < 256; ++i) page[std::size_t(i)] = static_cast<std::uint8_t>(i);
  for (int b = 0; b < 7; ++b) page[std::size_t(576 + b)] = static_cast<std::uint8_t>(scale);
  const KvPagePool pool{page.data(), 592, 1, 1};
  std::vector<float> row(512);
  pool.read(0, row.data());
  REQUIRE(not_identical(row, as_float(oracle::get_kv_entry(page.data(), 1, 0))) == "");
}

TEST_CASE("attention::KvPagePool never reads the pad byte", "[attention][kv_cache]") {
  std::vector<std::uint8_t> page(1184);
  const KvPagePool pool{page.data(), 1184, 2, 2};
  const auto row = kv_row(44);
  for (const int slot : {0, 1}) pool.write(SerialCoop{}, slot, row.data());
  std::vector<float> before(512), after(512);
  for (const int slot : {0, 1}) {
    pool.read(slot, before.data());
    page[1152 + 7] = page[1152 + 15] = 0xff;
    pool.read(slot, after.data());
    REQUIRE(test::differing(after, before) == "");
  }
}

TEMPLATE_TEST_CASE("attention::KvPagePool: a row comes back quantised per 64 channels, rope channels in bf16",
                   "[attention][kv_cache]", float, bf16) {
  using T = TestType;
  const auto row = test::stored<T>(kv_row(45));
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(2 * kv_stride(2, 1)));
  const KvPagePool pool{bytes.data(), kv_stride(2, 1), 2, 4};
  pool.write(SerialCoop{}, 3, row.data());
  std::vector<float> got(512);
  pool.read(3, got.data());
  REQUIRE(not_identical(got, as_float(quantised_kv(row))) == "");
  // Independently of the oracle: 448 survives, rope values of T = bf16 survive, and a quantised value is off
  // by at most half a step of 2^-3 of its power of two, or half the smallest step 2^-9 of its block's scale.
  REQUIRE(got[192 + 9] == -448.0f);
  for (std::size_t d = 0; d < 512; ++d) {
    const double x = test::value(row[d]);
    if (d >= 448) {
      REQUIRE(std::abs(got[d] - x) <= (std::is_same_v<T, bf16> ? 0 : test::kUnitBf16 * std::abs(x)));
    } else {
      const double scale =
          oracle::e8m0_value(bytes[static_cast<std::size_t>(kv_stride(2, 1)) + 1152 + 8 + d / 64]);
      CAPTURE(d, x, scale);
      REQUIRE(std::abs(got[d] - x) <= std::fmax(std::abs(x) / 16, scale / 1024));
    }
  }
}

TEMPLATE_TEST_CASE("attention::KvPagePool: NaN or inf makes its own block NaN and no other",
                   "[attention][kv_cache]", float, bf16) {
  using T = TestType;
  const float bad = GENERATE(as<float>{}, kNan, -kNan, kInf, -kInf);
  const std::size_t channel = GENERATE(0u, 63u, 64u, 200u, 447u, 448u, 511u);
  std::vector<float> clean = kv_row(46), dirty = clean;
  dirty[channel] = bad;
  std::vector<std::uint8_t> bytes(592);
  const KvPagePool pool{bytes.data(), 592, 1, 1};
  std::vector<float> want(512), got(512);
  pool.write(SerialCoop{}, 0, test::stored<T>(clean).data());
  pool.read(0, want.data());
  pool.write(SerialCoop{}, 0, test::stored<T>(dirty).data());
  pool.read(0, got.data());
  CAPTURE(bad, channel);
  for (std::size_t d = 0; d < 512; ++d) {
    if (channel < 448 && d / 64 == channel / 64) want[d] = kNan;
    if (channel >= 448 && d == channel) want[d] = bad;  // bf16 holds both
  }
  REQUIRE(not_identical(got, want) == "");
  if (channel < 448) REQUIRE(bytes[576 + channel / 64] == 255);
}

TEST_CASE("attention page pools compute addresses in 64 bits", "[attention][kv_cache]") {
  // No memory lies there; only the arithmetic is tested.
  constexpr std::uintptr_t kBase = std::uintptr_t{1} << 44;
  std::uint8_t* const base = reinterpret_cast<std::uint8_t*>(kBase);
  const auto address = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p); };
  const std::int64_t slot = GENERATE((std::int64_t{1} << 22) - 1, (std::int64_t{1} << 31) - 1);
  for (const std::int64_t page_entries : {1, 2, 53, 64, 256}) {
    const auto page = static_cast<std::uint64_t>(slot / page_entries);
    const auto t = static_cast<std::uint64_t>(slot % page_entries),
               p = static_cast<std::uint64_t>(page_entries);
    CAPTURE(slot, page_entries);
    const std::int64_t stride = kv_stride(static_cast<int>(page_entries), 1);
    const KvPagePool kv{base, stride, static_cast<std::int32_t>(page_entries), slot + 1};
    const std::uint64_t kv_page = kBase + page * static_cast<std::uint64_t>(stride);
    REQUIRE(kv_page - kBase > 0x7fffffffu);
    REQUIRE(address(kv.data_of(slot)) == kv_page + 576 * t);
    REQUIRE(address(kv.scales_of(slot)) == kv_page + 576 * p + 8 * t);

    const std::int64_t key_stride = 68 * page_entries + 512;
    const IndexFp4Pool keys{base, key_stride, static_cast<std::int32_t>(page_entries), slot + 1};
    const std::uint64_t key_page = kBase + page * static_cast<std::uint64_t>(key_stride);
    REQUIRE(address(keys.data_of(slot)) == key_page + 64 * t);
    REQUIRE(address(keys.scales_of(slot)) == key_page + 64 * p + 4 * t);
  }
  const RowPool<float> rows{reinterpret_cast<float*>(kBase), 520, slot + 1, 512};
  REQUIRE(address(rows.view(slot, nullptr)) == kBase + static_cast<std::uint64_t>(slot) * 520 * 4);
  // One page larger than 2^31 bytes.
  const KvPagePool huge{base, std::int64_t{1} << 33, 1 << 23, slot + 1};
  const std::int64_t last = (1 << 22) - 1;
  REQUIRE(address(huge.data_of(last)) == kBase + static_cast<std::uint64_t>(last) * 576);
  REQUIRE(address(huge.scales_of(last)) ==
          kBase + (std::uint64_t{1} << 23) * 576 + static_cast<std::uint64_t>(last) * 8);
}

// ---- FP4 index keys ---------------------------------------------------------------------------------------

namespace {
// Blocks of 32 of different sizes: ordinary, zero, 6 times a power of two, tiny.
std::vector<float> index_row(std::uint64_t seed) {
  std::vector<float> row = test::normal(128, seed);
  for (std::size_t d = 0; d < 32; ++d) {
    row[32 + d] *= seed % 2 == 0 ? 0.0f : 1e-20f;
    row[64 + d] = d == 5 ? 24.0f : row[64 + d];  // scale 4, and ties such as 1 / 4 = 0.25
    if (d % 4 == 0) row[64 + d] = static_cast<float>(d % 7);
    row[96 + d] *= 1e-3f;
  }
  return row;
}
}  // namespace

TEMPLATE_TEST_CASE("attention::IndexFp4Pool lays out every byte and reads it back", "[attention][kv_cache]",
                   float, bf16) {
  using T = TestType;
  REQUIRE(IndexFp4Pool::kEntryBytes == 68);
  const int page_entries = GENERATE(1, 2, 53, 64, 256);
  const std::int64_t stride = 68 * page_entries + GENERATE(0, 4, 576);
  const std::int64_t slots = 2 * page_entries + 1;
  oracle::GuardedBytes got(3 * stride, 0xa5), want(3 * stride, 0xa5);
  const IndexFp4Pool pool{got.data(), stride, page_entries, slots};
  for (const std::int64_t slot : std::set<std::int64_t>{0, page_entries - 1, page_entries, slots - 1}) {
    const auto row = test::stored<T>(index_row(static_cast<std::uint64_t>(slot) + 51));
    pool.write(SerialCoop{}, slot, row.data());
    std::uint8_t* page = want.data() + slot / page_entries * stride;
    oracle::put_index_key(page, page_entries, slot % page_entries, test::values(row));
    std::vector<float> back(129, 7.0f);
    pool.read(slot, back.data());
    REQUIRE(pool.view(slot, back.data()) == back.data());
    auto expected = as_float(oracle::get_index_key(page, page_entries, slot % page_entries));
    expected.push_back(7.0f);
    CAPTURE(page_entries, stride, slot);
    REQUIRE(not_identical(back, expected) == "");
  }
  CAPTURE(page_entries, stride);
  REQUIRE(test::differing(got.all, want.all) == "");
}

TEST_CASE("attention::IndexFp4Pool: one element by hand", "[attention][kv_cache]") {
  // Channel 0 = 1 -> code 2 in the LOW nibble of byte 0, channel 1 = -6 -> code 15 in its high nibble; block
  // 3, channel 127 = 3 -> scale 2^-1, code 7 in the high nibble of byte 63.
  std::vector<float> row(128, 0.0f);
  row[0] = 1, row[1] = -6, row[127] = 3;
  std::vector<std::uint8_t> page(2 * 68);
  const IndexFp4Pool pool{page.data(), 2 * 68, 2, 2};
  pool.write(SerialCoop{}, 1, row.data());
  REQUIRE(int{page[64]} == 0xf2);
  REQUIRE(int{page[127]} == 0x70);
  REQUIRE(int{page[128 + 4]} == 127);      // block 0 in the lowest byte
  REQUIRE(int{page[128 + 4 + 3]} == 126);  // block 3 in the highest
  REQUIRE(int{page[128 + 4 + 1]} == 1);    // the floor 6 * 2^-126
}

TEST_CASE("attention::IndexFp4Pool decodes every code under every scale", "[attention][kv_cache]") {
  std::vector<std::uint8_t> page = test::bytes(68, 52);
  const IndexFp4Pool pool{page.data(), 68, 1, 1};
  for (int i = 0; i < 64; ++i) page[std::size_t(i)] = static_cast<std::uint8_t>(i * 4 + i / 16);
  for (unsigned scale = 0; scale < 256; ++scale) {
    if (scale > 251 && scale < 255) continue;  // 6 * 2^125 and above is beyond fp32
    page[64 + scale % 4] = static_cast<std::uint8_t>(scale);
    std::vector<float> row(128);
    pool.read(0, row.data());
    CAPTURE(scale);
    REQUIRE(not_identical(row, as_float(oracle::get_index_key(page.data(), 1, 0))) == "");
    page[64 + scale % 4] = 127;
  }
}

TEST_CASE("attention::IndexFp4Pool: NaN or inf makes its own block NaN and no other",
          "[attention][kv_cache]") {
  const float bad = GENERATE(as<float>{}, kNan, kInf, -kInf);
  const std::size_t channel = GENERATE(0u, 31u, 32u, 127u);
  std::vector<float> clean = index_row(53), dirty = clean;
  dirty[channel] = bad;
  std::vector<std::uint8_t> page(68);
  const IndexFp4Pool pool{page.data(), 68, 1, 1};
  std::vector<float> want(128), got(128);
  pool.write(SerialCoop{}, 0, clean.data());
  pool.read(0, want.data());
  pool.write(SerialCoop{}, 0, dirty.data());
  pool.read(0, got.data());
  for (std::size_t d = channel / 32 * 32; d < channel / 32 * 32 + 32; ++d) want[d] = kNan;
  CAPTURE(bad, channel);
  REQUIRE(not_identical(got, want) == "");
}

// ---- plain rows -------------------------------------------------------------------------------------------

TEST_CASE("attention::RowPool<float> is read in place", "[attention][kv_cache]") {
  const std::int64_t stride = GENERATE(96, 104);
  std::vector<float> memory(static_cast<std::size_t>(3 * stride), 7.0f), want = memory;
  const RowPool<float> pool{memory.data(), stride, 3, 96};
  for (const std::int64_t slot : {0, 2}) {
    const auto row = test::normal(96, static_cast<std::uint64_t>(61 + slot));
    pool.write(SerialCoop{}, slot, row.data());
    std::copy(row.begin(), row.end(), want.begin() + slot * stride);
  }
  REQUIRE(test::differing(memory, want) == "");
  pool.read(2, nullptr);  // nothing to decode
  REQUIRE(pool.view(2, nullptr) == memory.data() + 2 * stride);
  REQUIRE(pool.view(0, nullptr) == memory.data());
}

TEST_CASE("attention::RowPool<bf16> decodes into the buffer", "[attention][kv_cache]") {
  const std::int64_t stride = GENERATE(96, 104);
  std::vector<bf16> memory(static_cast<std::size_t>(3 * stride), bf16{0x1234}), want = memory;
  const RowPool<bf16> pool{memory.data(), stride, 3, 96};
  auto row = test::stored<bf16>(test::normal(96, 63));
  row[4] = {0x7fc1}, row[5] = {0xff80}, row[6] = {0x8000}, row[7] = {0x0001};  // NaN, -inf, -0, subnormal
  pool.write(SerialCoop{}, 1, row.data());
  std::copy(row.begin(), row.end(), want.begin() + stride);
  REQUIRE(test::differing(memory, want) == "");
  std::vector<float> buffer(97, 7.0f);
  pool.read(1, buffer.data());
  REQUIRE(pool.view(1, buffer.data()) == buffer.data());
  auto expected = as_float(test::values(row));
  expected.push_back(7.0f);
  REQUIRE(not_identical(buffer, expected) == "");
}

TEST_CASE("attention::EmptyPool has no slots", "[attention][kv_cache]") {
  REQUIRE(attention::EmptyPool::slots == 0);
}

TEST_CASE("attention page pools: a group writes the bytes of one thread", "[attention][kv_cache]") {
  const auto row = test::stored<bf16>(kv_row(71));
  const auto key = test::stored<bf16>(index_row(72));
  std::vector<std::uint8_t> alone(592, 0xa5), together(592, 0xa5);
  std::vector<std::uint8_t> key_alone(68), key_together(68, 0xa5);
  std::vector<bf16> plain(512);
  KvPagePool{alone.data(), 592, 1, 1}.write(SerialCoop{}, 0, row.data());
  IndexFp4Pool{key_alone.data(), 68, 1, 1}.write(SerialCoop{}, 0, key.data());
  test::run_group<3>([&](const auto& coop) {
    KvPagePool{together.data(), 592, 1, 1}.write(coop, 0, row.data());
    IndexFp4Pool{key_together.data(), 68, 1, 1}.write(coop, 0, key.data());
    RowPool<bf16>{plain.data(), 512, 1, 512}.write(coop, 0, row.data());
  });
  REQUIRE(test::differing(together, alone) == "");
  REQUIRE(test::differing(key_together, key_alone) == "");
  REQUIRE(test::differing(plain, row) == "");
}
