// dsv4_check names mistakes: those that the oracles make, and those injected into the primitives.
#include "reference/error.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/shapes.hpp"
#include "tests/vectors/engine.hpp"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <set>
#include <string>
#include <vector>

namespace {

using namespace dsv4::reference;
using namespace dsv4::reference::vectors;

// The vectors of an op as read back from a file.
VectorFile vectors_of(const Op& op, std::uint64_t seed = 1) {
  return parse_vectors(
      dsv4::test::engine::in_memory(vectors_bytes(op, tiny_sizes(), "tiny", seed), "vectors"));
}

// What the oracle gives where it makes a mistake.
Outputs mistaken(const Op& op, const Problem& problem, Mistake mistake) {
  Outputs out;
  for (const Output& o : op.oracle(problem, mistake)) out[o.name] = expected_of(o).array;
  return out;
}

bool names(const OpResult& result, Mistake mistake) {
  return std::any_of(result.likely.begin(), result.likely.end(),
                     [&](const Likely& l) { return l.mistake == mistake; });
}

std::string named(const OpResult& result) {
  std::string text;
  for (const Likely& l : result.likely) text += std::string(info(l.mistake).name) + " ";
  return text;
}

}  // namespace

TEST_CASE("vectors: every mistake of every op is caught, and named", "[vectors][mistakes]") {
  std::set<Mistake> seen;
  for (const Op& op : ops()) {
    const VectorFile vectors = vectors_of(op);
    for (std::size_t i = 0; i < op.mistakes.size(); ++i) {
      const Mistake mistake = op.mistakes[i];
      seen.insert(mistake);
      // Long in sanitized builds; its mistakes are alike in what they execute.
      if (dsv4::test::reduced() && op.name == "attn_compress" && i % 5 != 0) continue;
      CAPTURE(std::string(op.name), std::string(info(mistake).name));
      SafetensorsWriter writer;
      for (const StoredCase& c : vectors.cases)
        dsv4::test::engine::add(writer, c.given.name, mistaken(op, c.given.problem, mistake));
      const OpResult result = check_op(vectors, dsv4::test::engine::in_memory(writer.bytes(), "outputs"), {});
      CAPTURE(named(result));
      CHECK(result.wrong() > 0);
      CHECK(names(result, mistake));
      CHECK(result.likely.size() == 1);
    }
  }
  for (int m = 1; m < static_cast<int>(Mistake::kCount); ++m) {
    CAPTURE(std::string(info(static_cast<Mistake>(m)).name));
    CHECK(seen.contains(static_cast<Mistake>(m)));
  }
}

TEST_CASE("vectors: scalars and inputs that make no sense are refused in one line", "[vectors]") {
  int refused = 0;
  const auto tried = [&](const Op& op, const Problem& p) {
    for (const Mistake mistake :
         {Mistake::kNone, op.mistakes.empty() ? Mistake::kNone : op.mistakes.back()}) {
      try {
        op.oracle(p, mistake);
      } catch (const InputError& e) {
        REQUIRE(std::string(e.what()).starts_with("vectors: "));
        ++refused;
      }
    }
  };
  for (const Op& op : ops()) {
    const Problem given = op.cases(tiny_sizes(), 1).at(0).problem;
    for (const auto& [name, value] : given.scalars)
      for (const double other : {0.0, -1.0, 0.5, 1e18, std::numeric_limits<double>::quiet_NaN()}) {
        Problem p = given;
        p.scalars[name] = other;
        CAPTURE(std::string(op.name), name, other);
        tried(op, p);
      }
    for (const auto& [name, array] : given.in) {
      CAPTURE(std::string(op.name), name);
      Problem p = given;
      p.in.erase(name);
      tried(op, p);
      p.in[name] = Array::make(array.dtype, {1, 1, 1}, [](std::int64_t) { return 1.0; });
      tried(op, p);
    }
  }
  REQUIRE(refused > 200);
}
