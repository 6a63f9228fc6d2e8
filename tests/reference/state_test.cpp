#include "reference/state.hpp"

#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/random_model.hpp"

#include <cstring>
#include <vector>

using namespace dsv4;
using namespace dsv4::reference;

namespace {

ModelConfig config() {
  ModelConfig c = test::tiny_config();
  REQUIRE(c.kind(0) == LayerKind::kSwa);
  REQUIRE(c.kind(1) == LayerKind::kCsa);
  REQUIRE(c.kind(2) == LayerKind::kHca);
  return c;
}

// Appends `count` tokens the way the forward pass does, with rows that name their block, store and position.
void append(SequenceState& s, std::int64_t count, float salt = 0) {
  for (std::int64_t p = s.length(); p < s.length() + count; ++p) {
    for (int b = 0; b < s.blocks(); ++b) {
      BlockState& block = s.block(b);
      const auto put = [&](RowStore& store, std::int64_t slot, std::int64_t what, int kind) {
        const std::vector<float> row(static_cast<std::size_t>(store.channels()),
                                     static_cast<float>(what) + 0.125f * static_cast<float>(kind) + salt);
        store.write(slot, row.data());
      };
      put(block.window, p % block.ring, p, b);
      for (CompressorState* c : {&block.main, &block.index}) {
        if (c->shape.ratio == 0) continue;
        put(c->rows, p % c->ring, p, b + 3);
        if ((p + 1) % c->shape.ratio == 0) put(c->entries, p / c->shape.ratio, p, b + 5);
      }
    }
  }
  s.advance(count);
}

}  // namespace

TEST_CASE("RowStore: rows come back, copies are independent, pages are shared until written", "[state]") {
  RowStore a(RowFormat::kF32, 3);
  const auto row = [](float x) { return std::vector<float>{x, x + 1, x + 2}; };
  for (int i = 0; i < 200; ++i) a.write(i, row(static_cast<float>(i)).data());
  REQUIRE(a.bytes() == 4 * 64 * 12);
  const RowStore b = a;
  REQUIRE(a.view(199, nullptr) == b.view(199, nullptr));  // shared
  a.write(199, row(-5).data());
  REQUIRE(a.view(199, nullptr)[1] == -4);
  REQUIRE(b.view(199, nullptr)[1] == 200);
  REQUIRE(a.view(0, nullptr) == b.view(0, nullptr));  // the other pages still are
}

TEST_CASE("RowStore: quantised rows decode to what the page formats hold, bytes move between slots",
          "[state]") {
  const RowFormat format = GENERATE(RowFormat::kKv584, RowFormat::kIndexFp4);
  const int channels = format == RowFormat::kKv584 ? kHeadDim : kIndexDim;
  RowStore store(format, channels), other(format, channels);
  std::vector<float> got(static_cast<std::size_t>(channels)), copy(got);
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(store.row_bytes()));
  REQUIRE(store.row_bytes() == (format == RowFormat::kKv584 ? 584 : 68));
  for (const std::int64_t slot : {0, 63, 64, 130}) {
    const std::vector<float> row = test::normal(channels, static_cast<std::uint64_t>(slot) + 1);
    store.write(slot, row.data());
    store.read(slot, got.data());
    double error = 0, norm = 0;
    for (int d = 0; d < channels; ++d) {
      const double e = double{got[static_cast<std::size_t>(d)]} - row[static_cast<std::size_t>(d)];
      error += e * e, norm += double{row[static_cast<std::size_t>(d)]} * row[static_cast<std::size_t>(d)];
    }
    REQUIRE(error > 0);
    REQUIRE(error < (format == RowFormat::kKv584 ? 0.04 * 0.04 : 0.2 * 0.2) * norm);
    store.get_bytes(slot, bytes.data());
    other.set_bytes(slot + 1, bytes.data());
    other.read(slot + 1, copy.data());
    REQUIRE(std::memcmp(got.data(), copy.data(), got.size() * 4) == 0);
    // Values that went through the format once are stored unchanged.
    store.write(slot, got.data());
    store.read(slot, copy.data());
    REQUIRE(std::memcmp(got.data(), copy.data(), got.size() * 4) == 0);
  }
}

TEST_CASE("SequenceState: which blocks and stores a configuration has", "[state]") {
  const ModelConfig c = config();
  const SequenceState plain(c, NumericMode::kDeploy),
      mtp(c, NumericMode::kDeploy, {.max_rollback = 3, .mtp = true});
  REQUIRE(plain.blocks() == c.layers);
  REQUIRE(mtp.blocks() == c.blocks());
  REQUIRE(mtp.block(0).ring == kWindow + 3);
  REQUIRE(mtp.block(0).main.shape.ratio == 0);
  REQUIRE(mtp.block(1).main.ring == 8 + 3);
  REQUIRE(mtp.block(1).main.shape.row_floats() == 2 * 2 * kHeadDim);
  REQUIRE(mtp.block(1).index.shape.row_floats() == 2 * 2 * kIndexDim);
  REQUIRE(mtp.block(2).main.ring == 128 + 3);
  REQUIRE(mtp.block(2).main.shape.row_floats() == 2 * kHeadDim);
  REQUIRE(mtp.block(2).index.shape.ratio == 0);
  REQUIRE(plain.bytes() == 0);  // nothing is allocated before it is written
}

TEST_CASE("SequenceState: rollback has a floor, and says so", "[state]") {
  SequenceState s(config(), NumericMode::kExact, {.max_rollback = 10});
  append(s, 25);
  REQUIRE(s.rollback_floor() == 15);
  Status status = s.rollback(26);
  REQUIRE(status.code == Code::kInvalidArgument);
  REQUIRE(status.value == 26);
  REQUIRE(status.limit == 25);
  status = s.rollback(14);
  REQUIRE(status.code == Code::kInvalidArgument);
  REQUIRE(status.limit == 15);
  REQUIRE(s.rollback(-1).code == Code::kInvalidArgument);
  REQUIRE(s.length() == 25);
  REQUIRE(s.rollback(25).ok());
  REQUIRE(s.rollback(18).ok());
  REQUIRE(s.length() == 18);
  REQUIRE(s.rollback_floor() == 15);  // the rings still hold what 25 tokens left
  append(s, 2);
  REQUIRE(s.rollback_floor() == 15);
  append(s, 10);
  REQUIRE(s.rollback_floor() == 20);
  SequenceState none(config(), NumericMode::kExact, {.max_rollback = 0});
  append(none, 5);
  REQUIRE(none.rollback(4).code == Code::kInvalidArgument);
  REQUIRE(none.rollback(5).ok());
}

TEST_CASE("SequenceState: live bytes do not depend on the history, history bytes do", "[state]") {
  using Extent = SequenceState::Extent;
  const NumericMode mode = GENERATE(NumericMode::kExact, NumericMode::kDeploy);
  SequenceState straight(config(), mode, {.max_rollback = 20}),
      wandering(config(), mode, {.max_rollback = 20});
  append(straight, 300);
  append(wandering, 290);
  append(wandering, 15, 0.5f);
  REQUIRE(wandering.rollback(285).ok());
  append(wandering, 15);
  REQUIRE(wandering.length() == 300);
  REQUIRE(straight.save(Extent::kLive) == wandering.save(Extent::kLive));
  REQUIRE(straight.save(Extent::kHistory).size() > straight.save(Extent::kLive).size());
  append(wandering, 1, 0.25f);
  append(straight, 1);
  REQUIRE(straight.save(Extent::kLive) != wandering.save(Extent::kLive));
}

TEST_CASE("SequenceState: save and restore", "[state]") {
  using Extent = SequenceState::Extent;
  const NumericMode mode = GENERATE(NumericMode::kExact, NumericMode::kDeploy);
  const std::int64_t length = GENERATE(0, 1, 5, 131, 300);
  const StateOptions options{.max_rollback = 20, .mtp = true};
  SequenceState s(config(), mode, options);
  append(s, length);
  const auto blob = s.save();

  SECTION("round trip keeps length, floor and every row that can still be reached") {
    SequenceState t(config(), mode, options);
    append(t, 17, 3.0f);  // what was there before is gone
    REQUIRE(t.restore(blob).ok());
    REQUIRE(t.length() == length);
    REQUIRE(t.rollback_floor() == s.rollback_floor());
    REQUIRE(t.save() == blob);
    REQUIRE(t.rollback(t.rollback_floor()).ok());
    REQUIRE(s.rollback(s.rollback_floor()).ok());
    REQUIRE(t.save(Extent::kLive) == s.save(Extent::kLive));
  }
  SECTION("a live blob restores with its floor at its length") {
    SequenceState t(config(), mode, options);
    REQUIRE(t.restore(s.save(Extent::kLive)).ok());
    REQUIRE(t.length() == length);
    REQUIRE(t.rollback_floor() == length);
    REQUIRE(t.save(Extent::kLive) == s.save(Extent::kLive));
  }
  SECTION("any damage is refused and leaves the state as it was") {
    SequenceState t(config(), mode, options);
    append(t, 3);
    const auto before = t.save();
    for (std::size_t size :
         {std::size_t{0}, std::size_t{7}, std::size_t{63}, blob.size() / 2, blob.size() - 1})
      if (size < blob.size()) REQUIRE(t.restore({blob.data(), size}).code == Code::kInvalidArgument);
    for (std::size_t at = 0; at < blob.size(); at += 1 + blob.size() / 50) {
      auto damaged = blob;
      damaged[at] ^= 0x10;
      REQUIRE_FALSE(t.restore(damaged).ok());
    }
    auto longer = blob;
    longer.push_back(0);
    REQUIRE_FALSE(t.restore(longer).ok());
    REQUIRE(t.save() == before);
  }
  SECTION("a blob of another mode, configuration or option is refused") {
    SequenceState other_mode(
        config(), mode == NumericMode::kExact ? NumericMode::kDeploy : NumericMode::kExact, options);
    REQUIRE(other_mode.restore(blob).code == Code::kInvalidArgument);
    ModelConfig c = config();
    std::swap(c.compress_ratio[0], c.compress_ratio[1]);
    REQUIRE(SequenceState(c, mode, options).restore(blob).code == Code::kInvalidArgument);
    REQUIRE(SequenceState(config(), mode, {.max_rollback = 21, .mtp = true}).restore(blob).code ==
            Code::kInvalidArgument);
    REQUIRE(SequenceState(config(), mode, {.max_rollback = 20}).restore(blob).code == Code::kInvalidArgument);
    ModelConfig shorter = config();
    shorter.max_positions = 100;
    REQUIRE(SequenceState(shorter, mode, options).restore(blob).ok() == (length <= 100));
  }
}

TEST_CASE("SequenceState: a crafted header cannot make restore read or allocate beyond the blob", "[state]") {
  SequenceState s(config(), NumericMode::kDeploy, {.max_rollback = 4});
  append(s, 6);
  auto blob = s.save();
  // length and high lie at 32 and 40; the checksum is recomputed as save computes it (FNV-1a).
  for (const std::int64_t length : {std::int64_t{-1}, std::int64_t{7}, std::int64_t{1000}, INT64_MAX}) {
    auto crafted = blob;
    std::memcpy(crafted.data() + 32, &length, 8);
    std::memcpy(crafted.data() + 40, &length, 8);
    std::uint64_t hash = 14695981039346656037ull;
    for (std::size_t i = 0; i + 8 < crafted.size(); ++i) hash = (hash ^ crafted[i]) * 1099511628211ull;
    std::memcpy(crafted.data() + crafted.size() - 8, &hash, 8);
    SequenceState t(config(), NumericMode::kDeploy, {.max_rollback = 4});
    const Status status = t.restore(crafted);
    CAPTURE(length, status.what);
    REQUIRE(status.code == Code::kInvalidArgument);
    REQUIRE(t.length() == 0);
  }
}
