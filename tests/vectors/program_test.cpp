// dsv4_vectors and dsv4_check as users call them; determinism; the published set.
#include "reference/mapped_file.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"
#include "tests/vectors/engine.hpp"

#include <nlohmann/json.hpp>

#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

namespace {

namespace fs = std::filesystem;
using namespace dsv4::reference;
using namespace dsv4::reference::vectors;
using dsv4::test::TempFolder;

struct Ran {
  int exit;
  std::string out, err;
};

Ran run(const char* program, const std::string& arguments) {
  const TempFolder folder;
  const std::string out = folder / "out", err = folder / "err";
  const std::string command =
      std::string("'") + program + "' " + arguments + " >'" + out + "' 2>'" + err + "' </dev/null";
  const int status = std::system(command.c_str());
  REQUIRE(WIFEXITED(status));
  return {WEXITSTATUS(status), dsv4::test::read_file(out), dsv4::test::read_file(err)};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

std::string quoted(const fs::path& path) { return "'" + path.string() + "'"; }

std::string text_of(const std::vector<std::byte>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// What the primitives give for a file of vectors, with `alter` applied to each case's outputs.
template <class F>
void write_outputs(const fs::path& vectors, const fs::path& outputs, F&& alter) {
  const VectorFile v = read_vectors(vectors);
  SafetensorsWriter writer;
  for (const StoredCase& c : v.cases) {
    Outputs out = dsv4::test::engine::run(std::string(v.op->name), c.given.problem);
    alter(c.given.name, out);
    dsv4::test::engine::add(writer, c.given.name, out);
  }
  writer.write(outputs);
}

constexpr auto kAsIs = [](const std::string&, Outputs&) {};

void require_one_line(const Ran& ran, const std::string& program) {
  CAPTURE(ran.out, ran.err);
  REQUIRE(ran.exit == 2);
  REQUIRE(ran.out.empty());
  REQUIRE(ran.err.starts_with(program + ": "));
  REQUIRE(std::count(ran.err.begin(), ran.err.end(), '\n') == 1);
}

}  // namespace

TEST_CASE("dsv4_vectors: files by seed and size, and what they hold") {
  const TempFolder folder;
  const fs::path a = folder / "a", b = folder / "b";
  const Ran ran =
      run(DSV4_VECTORS_PROGRAM, "--out " + quoted(a) + " --seed 5 --ops mhc_post,moe_gate --hidden 64");
  CAPTURE(ran.err);
  REQUIRE(ran.exit == 0);
  REQUIRE(std::count(ran.out.begin(), ran.out.end(), '\n') == 2);
  REQUIRE(run(DSV4_VECTORS_PROGRAM, "--out " + quoted(b) + " --seed 5 --ops mhc_post --hidden 64").exit == 0);
  REQUIRE(dsv4::test::read_file(a / "mhc_post.safetensors") ==
          dsv4::test::read_file(b / "mhc_post.safetensors"));
  REQUIRE(run(DSV4_VECTORS_PROGRAM, "--out " + quoted(b) + " --seed 6 --ops mhc_post --hidden 64").exit == 0);
  REQUIRE(dsv4::test::read_file(a / "mhc_post.safetensors") !=
          dsv4::test::read_file(b / "mhc_post.safetensors"));

  const VectorFile v = read_vectors(a / "mhc_post.safetensors");
  REQUIRE(v.seed == 5);
  REQUIRE(v.cases.at(0).given.problem.array("y").shape == std::vector<std::int64_t>{3, 64});
  REQUIRE(!v.cases.at(0).given.catches.empty());

  const Ran list = run(DSV4_VECTORS_PROGRAM, "--list");
  REQUIRE(list.exit == 0);
  for (const Op& op : ops()) REQUIRE(contains(list.out, std::string(op.name) + ": "));
  REQUIRE(contains(list.out, "mistake comb-not-transposed"));
}

TEST_CASE("dsv4_vectors: unusable input is one line and exit 2") {
  for (const char* arguments :
       {"", "--out", "--ops nothing --list", "--config /nowhere.json --list", "--hidden 33 --out x",
        "--seed x --list", "--heads 0 --list", "--groups 3 --out x", "--out /proc/none/x --ops rope",
        "--unknown", "surplus"})
    require_one_line(run(DSV4_VECTORS_PROGRAM, arguments), "dsv4_vectors");
}

TEST_CASE("dsv4_check: an engine that is right, one that is not, and one without files") {
  const TempFolder folder;
  const fs::path vectors = folder / "v", outputs = folder / "o";
  REQUIRE(run(DSV4_VECTORS_PROGRAM, "--out " + quoted(vectors)).exit == 0);
  fs::create_directory(outputs);
  const auto file = [](const fs::path& of, const char* op) {
    return of / (std::string(op) + ".safetensors");
  };
  for (const char* op : {"mhc_post", "moe_gate", "attn_select"})
    write_outputs(file(vectors, op), file(outputs, op), kAsIs);
  const std::string both = quoted(vectors) + " " + quoted(outputs);

  const Ran right = run(DSV4_CHECK_PROGRAM, both);
  CAPTURE(right.out, right.err);
  REQUIRE(right.exit == 0);
  REQUIRE(contains(right.out, "3 of 21 ops compared"));
  REQUIRE(contains(right.out, "\nPASS\n"));
  REQUIRE(contains(right.out, "attn_attend        no outputs"));
  REQUIRE(!contains(right.out, "likely"));

  // Floats wider than bf16 and integers wider than int32 will do, in other orders within a row.
  write_outputs(file(vectors, "mhc_post"), file(outputs, "mhc_post"), [](const std::string&, Outputs& out) {
    const Array a = out["out"];
    out["out"] = Array::make(DType::kF32, a.shape, [&](std::int64_t i) { return a.at(i) * (1 + 0x1p-20); });
  });
  const auto reversed = [](const Array& a, DType dtype) {
    const std::int64_t k = a.dim(1);
    return Array::make(dtype, a.shape, [&](std::int64_t i) { return a.at(i / k * k + k - 1 - i % k); });
  };
  write_outputs(file(vectors, "moe_gate"), file(outputs, "moe_gate"), [&](const std::string&, Outputs& out) {
    out["idx"] = reversed(out["idx"], DType::kI64), out["weights"] = reversed(out["weights"], DType::kF32);
  });
  const Ran lenient = run(DSV4_CHECK_PROGRAM, both);
  CAPTURE(lenient.out);
  REQUIRE(lenient.exit == 0);

  // Weights in another order than their experts.
  write_outputs(file(vectors, "moe_gate"), file(outputs, "moe_gate"), [&](const std::string&, Outputs& out) {
    out["weights"] = reversed(out["weights"], DType::kF32);
  });
  write_outputs(file(vectors, "mhc_post"), file(outputs, "mhc_post"),
                [](const std::string& name, Outputs& out) {
                  if (name == "random")
                    out["out"] = Array::make(DType::kF32, out["out"].shape, [](std::int64_t) { return 1.0; });
                });
  const Ran wrong = run(DSV4_CHECK_PROGRAM, both);
  REQUIRE(wrong.exit == 1);
  REQUIRE(contains(wrong.out, "WRONG"));
  REQUIRE(contains(wrong.out, "case random: comb applied as [destination][source]"));
  REQUIRE(contains(wrong.out, "\nFAIL: "));
  REQUIRE(!contains(wrong.out, "likely"));  // no known mistake gives ones

  const Ran json = run(DSV4_CHECK_PROGRAM, "--json " + both);
  REQUIRE(json.exit == 1);
  const auto parsed = nlohmann::json::parse(json.out);
  REQUIRE(parsed["holds"] == false);
  const auto& ops = parsed["ops"];
  const auto post =
      std::find_if(ops.begin(), ops.end(), [](const auto& op) { return op["op"] == "mhc_post"; });
  REQUIRE(post->at("outputs").at(0).at("verdict") == "WRONG");
  REQUIRE(post->at("outputs").at(0).at("worst").at("got") == 1.0);

  // A known mistake: comb transposed on the way in, as a program would see it.
  const VectorFile v = read_vectors(file(vectors, "mhc_post"));
  SafetensorsWriter writer;
  for (const StoredCase& c : v.cases) {
    Problem p = c.given.problem;
    const Array comb = p.array("comb");
    p.in["comb"] = Array::make(DType::kF32, comb.shape,
                               [&](std::int64_t i) { return comb.at(i / 16 * 16 + i % 4 * 4 + i % 16 / 4); });
    dsv4::test::engine::add(writer, c.given.name, dsv4::test::engine::run("mhc_post", p));
  }
  writer.write(file(outputs, "mhc_post"));
  const Ran named =
      run(DSV4_CHECK_PROGRAM, quoted(file(vectors, "mhc_post")) + " " + quoted(file(outputs, "mhc_post")));
  REQUIRE(named.exit == 1);
  REQUIRE(contains(named.out, "likely: comb-not-transposed: "));
  REQUIRE(run(DSV4_CHECK_PROGRAM, "--ops attn_select " + both).exit == 0);
  REQUIRE(run(DSV4_CHECK_PROGRAM, "--tolerance-scale 1e12 --ops mhc_post " + both).exit ==
          1);  // exact elements
}

TEST_CASE("dsv4_check: damaged and missing files and tensors are one line and exit 2") {
  const TempFolder folder;
  const fs::path vectors = folder / "v";
  REQUIRE(run(DSV4_VECTORS_PROGRAM, "--ops mhc_post,rope --out " + quoted(vectors)).exit == 0);
  const fs::path post = vectors / "mhc_post.safetensors", outputs = folder / "o.safetensors";
  const auto fails = [&](const std::string& arguments, const std::string& says) {
    const Ran ran = run(DSV4_CHECK_PROGRAM, arguments);
    require_one_line(ran, "dsv4_check");
    REQUIRE(contains(ran.err, says));
  };
  const std::string both = quoted(post) + " " + quoted(outputs);
  fails("", "VECTORS");
  fails(both, "o.safetensors: cannot open");
  fails(quoted(vectors) + " " + quoted(outputs), "need a folder of outputs");
  fs::create_directory(folder / "none");
  fails(quoted(vectors) + " " + quoted(folder / "none"), "no outputs of any op");
  fails("--ops rope " + quoted(vectors) + " " + quoted(folder / "none"), "rope.safetensors");
  fails(quoted(folder / "none") + " " + quoted(vectors), "no file of vectors");
  fails("--ops nothing " + both, "unknown op 'nothing'");
  fails("--ops rope " + both, "no vectors of rope");

  const auto altered = [&](auto&& alter, const std::string& says) {
    write_outputs(post, outputs, alter);
    fails(both, says);
  };
  altered(
      [](const std::string& name, Outputs& out) {
        if (name == "random") out.clear();
      },
      "no tensor 'random/out' (--partial");
  REQUIRE(run(DSV4_CHECK_PROGRAM, "--partial " + both).exit == 0);
  altered([](const std::string&, Outputs& out) { out["more"] = out["out"]; }, "is no output of mhc_post");
  altered([](const std::string&, Outputs& out) { out["out"].shape = {out["out"].count()}; }, "shape [");
  altered(
      [](const std::string&, Outputs& out) {
        out["out"] = Array::make(DType::kI32, out["out"].shape, [](std::int64_t) { return 0.0; });
      },
      "dtype I32, expected BF16 or another float");

  const std::string whole = dsv4::test::read_file(post);
  dsv4::test::write_file(outputs, whole.substr(0, 100));
  fails(both, "o.safetensors");
  const fs::path damaged = folder / "damaged.safetensors";
  write_outputs(post, outputs, kAsIs);
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string text = whole;
    const std::size_t at = text.find(from);
    REQUIRE(at != std::string::npos);
    REQUIRE(from.size() == to.size());
    dsv4::test::write_file(damaged, text.replace(at, from.size(), to));
  };
  for (const auto& [from, to] :
       {std::pair{"dsv4-vectors 1", "dsv4-vectors 9"},
        std::pair{"\"op\":\"mhc_post\"", "\"op\":\"mhc_pots\""},
        std::pair{"\"random/out/out\"", "\"random/oot/out\""},
        std::pair{"\\\"form\\\":\\\"plain", "\\\"form\\\":\\\"plane"},
        std::pair{"\\\"scalars\\\"", "\\\"scalers\\\""}, std::pair{"\"seed\":\"1\"", "\"seed\":\"x\""}}) {
    replaced(from, to);
    fails(quoted(damaged) + " " + quoted(outputs), "damaged.safetensors");
  }
  dsv4::test::write_file(damaged, whole.substr(0, whole.size() / 2));
  fails(quoted(damaged) + " " + quoted(outputs), "damaged.safetensors");
}

TEST_CASE("vectors: the published set is what dsv4_vectors writes") {
  const fs::path folder = fs::path(DSV4_TEST_DATA_DIR) / "vectors";
  std::uintmax_t total = 0;
  for (const Op& op : ops()) {
    const fs::path path = folder / (std::string(op.name) + ".safetensors");
    CAPTURE(path.string());
    const bool same = dsv4::test::read_file(path) == text_of(vectors_bytes(op, sizes_of("tiny"), "tiny", 1));
    REQUIRE(same);
    total += fs::file_size(path);
  }
  REQUIRE(total <= 2'000'000);
}
