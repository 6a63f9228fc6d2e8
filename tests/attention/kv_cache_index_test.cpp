// Mirrors include/dsv4/attention/kv_cache.hpp: FP8 index keys, and index keys whose scales are a tensor of
// their own.
#include <dsv4/attention/kv_cache.hpp>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <set>
#include <vector>

#include "tests/support/catch.hpp"
#include "tests/support/oracle_attention.hpp"
#include "tests/support/random.hpp"
#include "tests/support/thread_coop.hpp"

using namespace dsv4;
using attention::IndexFp4Pool;
using attention::IndexFp8Pool;
namespace oracle = test::oracle;

namespace {
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInf = std::numeric_limits<float>::infinity();

// Keys of very different sizes: ordinary, below the floor of 1e-4, all zero, huge.
std::vector<float> key_row(std::int64_t slot) {
  const double sizes[] = {1.0, 1e-7, 0.0, 1e30};
  return test::normal(128, static_cast<std::uint64_t>(slot) + 81, sizes[slot % 4]);
}

// A 132-byte FP8 index key in a page of P: 128*t the e4m3, 128*P + 4*t one little-endian f32 scale; with
// `scales`, the scale at 4*t there.
void put_fp8_key(std::uint8_t* page, std::uint8_t* scales, std::int64_t t, const std::vector<double>& row) {
  const oracle::Block block = oracle::fp8_block(row);
  for (int d = 0; d < 128; ++d)
    page[128 * t + d] = static_cast<std::uint8_t>(block.codes[static_cast<std::size_t>(d)]);
  const float scale = static_cast<float>(oracle::e8m0_value(block.scale));
  std::memcpy(scales + 4 * t, &scale, sizeof scale);
}

std::string not_decoded(const std::vector<float>& got, const std::uint8_t* codes, double scale) {
  for (std::size_t d = 0; d < 128; ++d) {
    const auto want = static_cast<float>(oracle::e4m3_value(codes[d]) * scale);  // rounded once
    if (!test::identical(got[d], want))
      return "channel " + std::to_string(d) + ": " + std::to_string(got[d]) + ", want " +
             std::to_string(want);
  }
  return got[128] == 7.0f ? "" : "written beyond the row";
}

std::set<std::int64_t> edges(std::int64_t page_entries) {
  return {0, page_entries - 1, page_entries, 2 * page_entries};
}
}  // namespace

TEMPLATE_TEST_CASE("attention::IndexFp8Pool lays out every byte and reads it back", "[attention][kv_cache]",
                   float, bf16) {
  using T = TestType;
  REQUIRE(IndexFp8Pool::kEntryBytes == 132);
  const int page_entries = GENERATE(1, 2, 53, 64, 256);
  const std::int64_t stride = 132 * page_entries + GENERATE(0, 4, 576);
  oracle::GuardedBytes got(3 * stride, 0xa5), want(3 * stride, 0xa5);
  const IndexFp8Pool pool{got.data(), stride, page_entries, 2 * page_entries + 1};
  for (const std::int64_t slot : edges(page_entries)) {
    const auto row = test::stored<T>(key_row(slot));
    pool.write(SerialCoop{}, slot, row.data());
    std::uint8_t* page = want.data() + slot / page_entries * stride;
    put_fp8_key(page, page + 128 * page_entries, slot % page_entries, test::values(row));
    std::vector<float> back(129, 7.0f);
    pool.read(slot, back.data());
    REQUIRE(pool.view(slot, back.data()) == back.data());
    CAPTURE(page_entries, stride, slot);
    REQUIRE(not_decoded(back, page + 128 * (slot % page_entries),
                        oracle::e8m0_value(oracle::fp8_block(test::values(row)).scale)) == "");
  }
  CAPTURE(page_entries, stride);
  REQUIRE(test::differing(got.all, want.all) == "");
}

TEST_CASE("attention::IndexFp8Pool reads engines' scales, which are no powers of two",
          "[attention][kv_cache]") {
  const float scale = GENERATE(as<float>{}, 1.7f / 448, 3e-5f, 1.0f, 0x1p-127f, 1e35f, kNan);
  std::vector<std::uint8_t> page(132);
  for (int i = 0; i < 128; ++i) page[std::size_t(i)] = static_cast<std::uint8_t>(2 * i + (i >= 64));
  std::memcpy(page.data() + 128, &scale, sizeof scale);
  std::vector<float> row(129, 7.0f);
  IndexFp8Pool{page.data(), 132, 1, 1}.read(0, row.data());
  CAPTURE(scale);
  REQUIRE(not_decoded(row, page.data(), scale) == "");
}

TEMPLATE_TEST_CASE("attention::IndexFp8Pool: NaN or inf makes its own key NaN and no other",
                   "[attention][kv_cache]", float, bf16) {
  using T = TestType;
  const float bad = GENERATE(as<float>{}, kNan, kInf, -kInf);
  const std::size_t channel = GENERATE(0u, 63u, 127u);
  std::vector<std::uint8_t> bytes(3 * 132), clean(3 * 132);
  const IndexFp8Pool pool{bytes.data(), 3 * 132, 3, 3}, before{clean.data(), 3 * 132, 3, 3};
  for (const std::int64_t slot : {0, 1, 2}) {
    auto row = test::stored<T>(test::normal(128, static_cast<std::uint64_t>(slot) + 91));
    before.write(SerialCoop{}, slot, row.data());
    if (slot == 1) row[channel] = from_float<T>(bad);
    pool.write(SerialCoop{}, slot, row.data());
  }
  CAPTURE(bad, channel);
  for (const std::int64_t slot : {0, 1, 2}) {
    std::vector<float> got(128), want(128, kNan);
    pool.read(slot, got.data());
    if (slot != 1) before.read(slot, want.data());
    for (std::size_t d = 0; d < 128; ++d) REQUIRE(test::identical(got[d], want[d]));
  }
}

TEMPLATE_TEST_CASE("attention index pools: scales in a tensor of their own", "[attention][kv_cache]",
                   IndexFp4Pool, IndexFp8Pool) {
  using Pool = TestType;
  const int page_entries = GENERATE(1, 2, 53, 64, 256);
  const int padding = GENERATE(0, 12);
  const std::int64_t stride = Pool::kDataBytes * page_entries + 16 * padding;
  const std::int64_t scales_stride = 4 * page_entries + padding;
  oracle::GuardedBytes codes(3 * stride, 0xa5), scales(3 * scales_stride, 0xa5);
  oracle::GuardedBytes want_codes(3 * stride, 0xa5), want_scales(3 * scales_stride, 0xa5);
  const Pool pool{codes.data(), stride, page_entries, 2 * page_entries + 1, scales.data(), scales_stride};
  for (const std::int64_t slot : edges(page_entries)) {
    CAPTURE(page_entries, padding, slot);
    const auto row = test::stored<bf16>(key_row(slot));
    pool.write(SerialCoop{}, slot, row.data());
    // The same key alone, in the packed form.
    std::vector<std::uint8_t> alone(Pool::kEntryBytes);
    const Pool packed{alone.data(), Pool::kEntryBytes, 1, 1};
    packed.write(SerialCoop{}, 0, row.data());
    const std::int64_t page = slot / page_entries, t = slot % page_entries;
    std::memcpy(want_codes.data() + page * stride + t * Pool::kDataBytes, alone.data(), Pool::kDataBytes);
    std::memcpy(want_scales.data() + page * scales_stride + t * 4, alone.data() + Pool::kDataBytes, 4);
    std::vector<float> got(128), want(128);
    pool.read(slot, got.data());
    packed.read(0, want.data());
    REQUIRE(test::differing(got, want) == "");
  }
  CAPTURE(page_entries, padding);
  REQUIRE(test::differing(codes.all, want_codes.all) == "");
  REQUIRE(test::differing(scales.all, want_scales.all) == "");
}

TEMPLATE_TEST_CASE("attention index pools compute addresses in 64 bits, dense scales too",
                   "[attention][kv_cache]", IndexFp4Pool, IndexFp8Pool) {
  // No memory lies there; only the arithmetic is tested.
  using Pool = TestType;
  constexpr std::uintptr_t kCodes = std::uintptr_t{1} << 44, kScales = std::uintptr_t{1} << 46;
  const auto address = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p); };
  const auto pointer = [](std::uintptr_t a) { return reinterpret_cast<std::uint8_t*>(a); };
  const std::int64_t slot = (std::int64_t{1} << 31) - 1;
  for (const std::int64_t page_entries : {1, 2, 53, 64, 256}) {
    CAPTURE(page_entries);
    const std::int64_t page = slot / page_entries, t = slot % page_entries;
    const std::int64_t stride = Pool::kDataBytes * page_entries + 512, scales_stride = 4 * page_entries + 8;
    const Pool pool{pointer(kCodes), stride,           static_cast<std::int32_t>(page_entries),
                    slot + 1,        pointer(kScales), scales_stride};
    REQUIRE(address(pool.data_of(slot)) ==
            kCodes + static_cast<std::uint64_t>(page * stride + t * Pool::kDataBytes));
    REQUIRE(address(pool.scales_of(slot)) ==
            kScales + static_cast<std::uint64_t>(page * scales_stride + t * 4));
  }
}

TEST_CASE("attention::IndexFp8Pool: a group writes the bytes of one thread", "[attention][kv_cache]") {
  const auto row = test::stored<bf16>(key_row(0));
  std::vector<std::uint8_t> alone(132), together(132, 0xa5);
  IndexFp8Pool{alone.data(), 132, 1, 1}.write(SerialCoop{}, 0, row.data());
  test::run_group<3>([&](const auto& coop) {
    IndexFp8Pool{together.data(), 132, 1, 1}.write(coop, 0, row.data());
  });
  REQUIRE(test::differing(together, alone) == "");
}
