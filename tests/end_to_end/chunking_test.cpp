// Any split of a sequence into chunks, with any rollbacks and re-appends, forks, saved and restored states,
// any neighbours in the batch and any number of threads: the same states and logits, bit for bit.
#include "reference/cpu_backend.hpp"
#include "reference/forward.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/random.hpp"
#include "tests/support/random_model.hpp"
#include "tests/support/shapes.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <vector>

using namespace dsv4;
using namespace dsv4::reference;

namespace {

using Tokens = std::vector<std::int32_t>;
using Logits = std::vector<float>;

// One model with its backend: appends tokens and returns the logits of the last token of every append that
// has any.
template <class T>
class Engine {
 public:
  Engine(const Model& model, int threads) : model_(model), backend_(model.config, threads) {}

  std::vector<Logits> append(const std::vector<Append>& appends) {
    Batch batch;
    const Status status = make_batch(model_, appends, &batch);
    INFO(status.what);
    REQUIRE(status.ok());
    NoTap tap;
    const Output out = forward(backend_, model_, batch, tap);
    std::vector<Logits> rows;
    for (std::int64_t i = 0; i < out.logits.rows(); ++i) {
      Logits row(out.logits.row(i), out.logits.row(i) + out.logits.cols());
      if (out.mtp_logits.rows() > 0)
        row.insert(row.end(), out.mtp_logits.row(i), out.mtp_logits.row(i) + out.mtp_logits.cols());
      rows.push_back(std::move(row));
    }
    return rows;
  }

 private:
  const Model& model_;
  CpuBackend<T> backend_;
};

bool same_bits(const Logits& a, const Logits& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// What every history below must reproduce: the sequence appended token by token, alone, by one thread.
struct Baseline {
  Tokens tokens;                                // one longer than the sequence, for the MTP block's input
  std::vector<Logits> logits;                   // after each token
  std::vector<std::vector<std::uint8_t>> live;  // state after each token
};

ModelConfig config_with(std::vector<std::int32_t> ratios, int mtp) {
  ModelConfig c = test::tiny_config();
  c.layers = static_cast<std::int32_t>(ratios.size()) - mtp;
  c.mtp_layers = mtp;
  c.hash_layers = 1;
  c.compress_ratio = {};
  std::copy(ratios.begin(), ratios.end(), c.compress_ratio.begin());
  REQUIRE(validate(c).ok());
  return c;
}

template <class T>
Baseline baseline(const Model& model, StateOptions options, std::int64_t length, std::uint64_t seed) {
  Baseline b;
  b.tokens = test::integers(length + 1, seed, 0, model.config.vocab - 1);
  Engine<T> engine(model, 1);
  SequenceState state(model.config, model.mode, options);
  for (std::size_t i = 0; i < static_cast<std::size_t>(length); ++i) {
    const Append a{
        &state, {&b.tokens[i], 1}, options.mtp ? std::span(&b.tokens[i + 1], 1) : std::span<std::int32_t>()};
    b.logits.push_back(engine.append({a})[0]);
    b.live.push_back(state.save(SequenceState::Extent::kLive));
  }
  return b;
}

// A sequence on its way to the end of a baseline by a random history.
struct Traveller {
  const Baseline* baseline;
  std::optional<SequenceState> state;
  Tokens tokens, next;  // of the step under way
  bool draft = false;   // the step appends tokens that are then rolled back
};

template <class T>
void random_histories(const Model& model, StateOptions options, const std::vector<Baseline>& baselines,
                      int threads, std::uint64_t seed) {
  test::Random random(seed);
  Engine<T> engine(model, threads);
  std::vector<Traveller> travellers;
  for (const Baseline& b : baselines)
    travellers.push_back({&b, SequenceState(model.config, model.mode, options), {}, {}});
  const auto length_of = [](const Traveller& t) {
    return static_cast<std::int64_t>(t.baseline->logits.size());
  };
  const auto done = [&] {
    return std::all_of(travellers.begin(), travellers.end(),
                       [&](const Traveller& t) { return t.state->length() == length_of(t); });
  };
  for (int step = 0; !done(); ++step) {
    REQUIRE(step < 3000);
    std::vector<Append> appends;
    std::vector<Traveller*> moved;
    for (Traveller& t : travellers) {
      if (random.unit() < 0.25) continue;  // not in this batch
      const std::int64_t at = t.state->length(), left = length_of(t) - at;
      const std::int64_t sizes[] = {0, 1, 1, 2, 3, 4, 5, 7, 31, 128, 150};
      const std::int64_t count = std::min(left, sizes[random.integer(0, 10)]);
      t.draft = count > 0 && count <= options.max_rollback && random.unit() < 0.3;
      t.tokens.assign(t.baseline->tokens.begin() + at, t.baseline->tokens.begin() + at + count);
      t.next.assign(t.baseline->tokens.begin() + at + 1, t.baseline->tokens.begin() + at + 1 + count);
      if (t.draft)
        for (std::int32_t& id : t.tokens)
          id = static_cast<std::int32_t>(random.integer(0, model.config.vocab - 1));
      if (!options.mtp) t.next.clear();
      appends.push_back({&*t.state, t.tokens, t.next});
      moved.push_back(&t);
    }
    const std::vector<Logits> logits = engine.append(appends);
    std::size_t row = 0;
    for (Traveller* t : moved) {
      if (t->tokens.empty()) continue;
      const Logits& got = logits[row++];
      SequenceState& state = *t->state;
      const auto count = static_cast<std::int64_t>(t->tokens.size());
      if (t->draft) {
        REQUIRE(state.rollback(state.length() - count).ok());
      } else {
        CAPTURE(seed, step, state.length());
        REQUIRE(same_bits(got, t->baseline->logits[static_cast<std::size_t>(state.length() - 1)]));
        if (random.unit() < 0.3) {  // accepted tokens may be taken back too
          const std::int64_t back = std::min(random.integer(0, options.max_rollback), state.length());
          const std::int64_t target = std::max(state.length() - back, state.rollback_floor());
          REQUIRE(state.rollback(target).ok());
        }
      }
      if (state.length() > 0)
        REQUIRE(state.save(SequenceState::Extent::kLive) ==
                t->baseline->live[static_cast<std::size_t>(state.length() - 1)]);
      const double what = random.unit();
      if (what < 0.1) {  // through bytes, with and without history
        const auto extent = what < 0.05 ? SequenceState::Extent::kHistory : SequenceState::Extent::kLive;
        SequenceState restored(model.config, model.mode, options);
        REQUIRE(restored.restore(state.save(extent)).ok());
        REQUIRE(restored.length() == state.length());
        if (extent == SequenceState::Extent::kHistory)
          REQUIRE(restored.rollback_floor() == state.rollback_floor());
        state = std::move(restored);
      } else if (what < 0.2 &&
                 state.length() < length_of(*t)) {  // a fork goes astray; the original must not notice
        SequenceState fork = state.fork();
        const Tokens astray(9, 1), next(options.mtp ? 9 : 0, 2);
        engine.append({{&fork, astray, next}});
      }
    }
  }
  for (const Traveller& t : travellers)
    REQUIRE(t.state->save(SequenceState::Extent::kLive) == t.baseline->live.back());
}

template <class T>
void run(const ModelConfig& config, NumericMode mode, StateOptions options, int histories) {
  const Model model = test::random_model(config, mode, 7);
  std::vector<Baseline> baselines;
  if (test::reduced()) histories = 2;
  const std::int64_t longest = test::reduced() ? 140 : 300;
  for (const std::int64_t length : {longest, std::int64_t{131}, std::int64_t{9}})
    baselines.push_back(baseline<T>(model, options, length, static_cast<std::uint64_t>(length)));
  for (int i = 0; i < histories; ++i)
    random_histories<T>(model, options, baselines, 1 + i % 3, static_cast<std::uint64_t>(i));
}

}  // namespace

TEST_CASE("any history gives the same bits: exact mode, every layer kind and the MTP block", "[chunking]") {
  run<float>(config_with({0, 4, 128, 4, 0}, 1), NumericMode::kExact, {.max_rollback = 40, .mtp = true}, 12);
}

TEST_CASE("any history gives the same bits: deploy mode", "[chunking]") {
  run<bf16>(config_with({4, 128, 0}, 0), NumericMode::kDeploy, {.max_rollback = 16}, 6);
}

TEST_CASE("any history gives the same bits: an MTP block with compressed entries", "[chunking]") {
  run<bf16>(config_with({0, 4}, 1), NumericMode::kDeploy, {.max_rollback = 5, .mtp = true}, 4);
}

TEST_CASE("rollback by exactly max_rollback at every position around block and window edges", "[chunking]") {
  const ModelConfig config = config_with({4, 128}, 0);
  const Model model = test::random_model(config, NumericMode::kExact, 11);
  const StateOptions options{.max_rollback = 17};
  const Baseline b = baseline<float>(model, options, 290, 3);
  Engine<float> engine(model, 1);
  SequenceState state(config, model.mode, options);
  for (const std::int64_t length : {3, 4, 5, 17, 20, 127, 128, 129, 144, 145, 146, 255, 256, 257, 273, 290}) {
    const auto append_to = [&](std::int64_t end) {
      const std::span<const std::int32_t> ids(&b.tokens[static_cast<std::size_t>(state.length())],
                                              static_cast<std::size_t>(end - state.length()));
      const auto logits = engine.append({{&state, ids, {}}});
      CAPTURE(length, end);
      REQUIRE(same_bits(logits[0], b.logits[static_cast<std::size_t>(end - 1)]));
    };
    append_to(length);
    const std::int64_t back = std::max<std::int64_t>(0, length - options.max_rollback);
    const Status beyond = state.rollback(back - 1);
    REQUIRE(beyond.code == Code::kInvalidArgument);
    REQUIRE(state.length() == length);
    REQUIRE(state.rollback(back).ok());
    // Other tokens in between overwrite what the rings held of the dropped ones.
    const Tokens astray(static_cast<std::size_t>(length - back), 5);
    engine.append({{&state, astray, {}}});
    REQUIRE(state.rollback(back).ok());
    append_to(length);
  }
}

TEST_CASE("an empty batch and empty appends are legal", "[chunking]") {
  const ModelConfig config = config_with({0, 4, 128}, 0);
  const Model model = test::random_model(config, NumericMode::kDeploy, 5);
  Engine<bf16> engine(model, 2);
  REQUIRE(engine.append({}).empty());
  SequenceState a(config, model.mode), b(config, model.mode);
  REQUIRE(engine.append({{&a, {}, {}}, {&b, {}, {}}}).empty());
  REQUIRE(a.length() == 0);
  const Tokens ids{1, 2, 3};
  const auto one = engine.append({{&a, {}, {}}, {&b, ids, {}}});
  REQUIRE(one.size() == 1);
  const auto alone = engine.append({{&a, ids, {}}});
  REQUIRE(same_bits(one[0], alone[0]));
}
