// Costs against closed forms written out here with numbers of the published configurations.
#include "reference/context_cost/cost.hpp"

#include "reference/context_cost/published.hpp"
#include "tests/support/catch.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

using namespace dsv4::reference::context_cost;

namespace {

const Model kFlashModel{"flash", dsv4::kFlash}, kProModel{"pro", dsv4::kPro}, kV32Model{"v3.2", kV32};

std::int64_t macs_of(const Model& m, std::int64_t n, const std::string& part) {
  for (const Term& t : terms(m, n, {}))
    if (t.part == part) return std::llround(t.macs);
  FAIL("no part " << part);
  return 0;
}

std::int64_t bytes(double v) { return std::llround(v); }

}  // namespace

TEST_CASE("context cost: every published figure comes out, at its own precision") {
  const std::vector<PublishedFigure> figures = published_figures({});
  REQUIRE(figures.size() == 12);
  for (const PublishedFigure& f : figures) {
    CAPTURE(f.what, f.computed, f.said);
    REQUIRE(f.agrees());
  }
  // What they rest on: the other reading of each assumption moves a figure.
  const auto differing = [](auto change) {
    Assumptions a;
    change(a);
    std::string out;
    for (const PublishedFigure& f : published_figures(a))
      if (!f.agrees()) out += f.what + "; ";
    return out;
  };
  REQUIRE(differing([](Assumptions& a) { a.count_window = false; }) == "V4-Pro cache, times smaller; ");
  REQUIRE(differing([](Assumptions& a) { a.fp4_weights_rate = 0.5; }).find("V4-Pro FLOPs a token, of V3.2") !=
          std::string::npos);
  REQUIRE(differing([](Assumptions& a) { a.keys = KeyFormat::kFp8; }).find("V4-Flash cache, of V3.2") !=
          std::string::npos);
  REQUIRE(differing([](Assumptions& a) { a.grouped = Arithmetic::kBf16; }).find("times lower") !=
          std::string::npos);
  for (const Variant& v : variants({}))
    if (v.what == "2^20 tokens")
      REQUIRE(cost(kV32Model, v.tokens, {}).fp8_flops / cost(kFlashModel, v.tokens, {}).fp8_flops >= 9.85);
}

TEST_CASE("context cost: multiply-adds of V4-Flash, by hand") {
  // 43 layers: 2 window only, 21 CSA, 20 HCA. 1,000,000 tokens: 250,000 and 7,812 entries.
  constexpr std::int64_t n = 1'000'000;
  REQUIRE(macs_of(kFlashModel, n, "projections") ==
          43LL * (4096 * 1024 + 1024 * 32768 + 4096 * 512 + 8192 * 4096));
  REQUIRE(macs_of(kFlashModel, n, "output groups") == 43LL * 8 * (64 / 8 * 512) * 1024);
  REQUIRE(macs_of(kFlashModel, n, "compressors") ==
          21LL * 4096 * (1024 + 1024 + 256 + 256) + 20LL * 4096 * (512 + 512));
  REQUIRE(macs_of(kFlashModel, n, "indexer projections") == 21LL * 1024 * 8192);
  REQUIRE(macs_of(kFlashModel, n, "indexer weights") == 21LL * 4096 * 64);
  REQUIRE(macs_of(kFlashModel, n, "indexer scores") == 21LL * 250'000 * 64 * 128);
  REQUIRE(macs_of(kFlashModel, n, "attention") ==
          (2LL * 128 + 21 * (128 + 512) + 20 * (128 + 7812)) * 64 * 1024);
  REQUIRE(macs_of(kFlashModel, n, "gate") == 43LL * 4096 * 256);
  REQUIRE(macs_of(kFlashModel, n, "routed experts") == 43LL * 6 * 3 * 4096 * 2048);
  REQUIRE(macs_of(kFlashModel, n, "shared expert") == 43LL * 3 * 4096 * 2048);
  REQUIRE(macs_of(kFlashModel, n, "mHC") == 43LL * 2 * 24 * 16384 + 4 * 16384);
  REQUIRE(macs_of(kFlashModel, n, "head") == 4096LL * 129280);
  REQUIRE(terms(kFlashModel, n, {}).size() == 12);

  // Each at its rate: bf16 2, FP4 x FP4 1/2, all others 1.
  std::map<std::string, double> rates = {
      {"compressors", 2}, {"indexer weights", 2}, {"attention", 2}, {"gate", 2}, {"mHC", 2},
      {"head", 2},        {"indexer scores", 0.5}};
  double sum = 0;
  for (const Term& t : terms(kFlashModel, n, {})) {
    const auto found = rates.find(std::string(t.part));
    sum += 2 * t.macs * (found == rates.end() ? 1 : found->second);
  }
  REQUIRE(cost(kFlashModel, n, {}).fp8_flops == Approx(sum).epsilon(1e-12));
}

TEST_CASE("context cost: multiply-adds of V4-Pro and V3.2 that depend on the length, by hand") {
  constexpr std::int64_t n = 131'077;  // 32,769 entries of 4 and 5 left over; 1,024 of 128 and 5 left over
  REQUIRE(macs_of(kProModel, n, "indexer scores") == 30LL * 32'769 * 8192);
  REQUIRE(macs_of(kProModel, n, "attention") == (61LL * 128 + 30 * 1024 + 31 * 1024) * 128 * (512 + 512));
  REQUIRE(macs_of(kV32Model, n, "indexer scores") == 61LL * n * 64 * 128);
  REQUIRE(macs_of(kV32Model, n, "attention") == 61LL * 2048 * 128 * (576 + 512));
  // Shorter than window, top-k and a block.
  REQUIRE(macs_of(kProModel, 3, "attention") == 61LL * 3 * 128 * 1024);
  REQUIRE(macs_of(kProModel, 3, "indexer scores") == 0);
  REQUIRE(macs_of(kProModel, 128, "attention") == (61LL * 128 + 30 * 32 + 31) * 128 * 1024);
  REQUIRE(macs_of(kV32Model, 1, "attention") == 61LL * 128 * 1088);
  // V3 activates 37 B; V3.2 adds its indexer's matrices.
  REQUIRE(active_weights(kV32Model) - 61.0 * (1536 * 8192 + 7168 * 128 + 7168 * 64) ==
          Approx(36.6e9).epsilon(2e-3));
}

TEST_CASE("context cost: bytes of the caches are those of their formats") {
  for (const std::int64_t n : {1, 3, 4, 127, 128, 129, 1000, 1 << 20}) {
    CAPTURE(n);
    const std::int64_t window = std::min<std::int64_t>(n, 128);
    const CacheBytes flash = cache_bytes(kFlashModel, n, {});
    REQUIRE(bytes(flash.entries) == (21 * (n / 4) + 20 * (n / 128)) * 584);
    REQUIRE(bytes(flash.keys) == 21 * (n / 4) * 68);
    REQUIRE(bytes(flash.window) == 43 * window * 584);
    REQUIRE(bytes(flash.total) == bytes(flash.entries + flash.keys + flash.window));
    const CacheBytes pro = cache_bytes(kProModel, n, {});
    REQUIRE(bytes(pro.total) == (30 * (n / 4) + 31 * (n / 128) + 61 * window) * 584 + 30 * (n / 4) * 68);
    REQUIRE(bytes(cache_bytes(kV32Model, n, {}).total) == 61 * n * 788);
  }
  // Of states without rollback: 7 rows of a and b of 1024 and of 256 channels; 15 rows of 2 x 512, the
  // running softmax and the length.
  REQUIRE(bytes(cache_bytes(kFlashModel, 1, {}).states) ==
          21 * (7 * 2 * 1024 + 7 * 2 * 256) * 4 + 20 * (15 * 2 * 512 * 4 + 3 * 512 * 4 + 16));

  REQUIRE(entry_bytes(KvFormat::kFp8) == 448 + 64 * 2 + 7 + 1);
  REQUIRE(entry_bytes(KvFormat::kBf16) == 1024);
  REQUIRE(key_bytes(KeyFormat::kFp4) == 64 + 4);
  REQUIRE(key_bytes(KeyFormat::kFp8) == 128 + 4);
  REQUIRE(key_bytes(KeyFormat::kBf16) == 256);
  Assumptions plain;
  plain.kv = KvFormat::kBf16, plain.keys = KeyFormat::kFp8, plain.count_window = false;
  REQUIRE(bytes(cache_bytes(kFlashModel, 1024, plain).total) == (21 * 256 + 20 * 8) * 1024 + 21 * 256 * 132);
  // Scores are computed in the keys' format.
  for (const Term& t : terms(kFlashModel, 1024, plain))
    if (t.part == "indexer scores") REQUIRE(t.arithmetic == Arithmetic::kFp8);
}

TEST_CASE("context cost: a longer context never costs less, and V4 costs less than V3.2 from 2k on") {
  for (const Model& m : published_models()) {
    CAPTURE(m.name);
    Cost last;
    std::int64_t n = 1;
    for (int i = 0; n < kMaxTokens; ++i, n += 1 + n / 7) {
      CAPTURE(n);
      const Cost c = cost(m, n, {});
      REQUIRE(std::isfinite(c.fp8_flops));
      REQUIRE(c.flops >= last.flops);
      REQUIRE(c.fp8_flops >= last.fp8_flops);
      REQUIRE(c.cache.total >= last.cache.total);
      REQUIRE(c.cache.entries >= last.cache.entries);
      REQUIRE(c.cache.keys >= last.cache.keys);
      REQUIRE(c.cache.window >= last.cache.window);
      const Cost base = cost(kV32Model, n, {});
      REQUIRE((n < 2048 || c.fp8_flops <= base.fp8_flops));
      REQUIRE((n < 2048 || c.cache.total <= base.cache.total));
      last = c;
    }
  }
}
