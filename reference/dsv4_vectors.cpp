// dsv4_vectors: test vectors of every op, with which an engine proves its own kernels.
#include "reference/error.hpp"
#include "reference/mapped_file.hpp"
#include "reference/printable.hpp"
#include "reference/vectors/file.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <vector>

namespace {

using namespace dsv4::reference;
using namespace dsv4::reference::vectors;

constexpr const char* kAbout =
    "Writes test vectors of DeepSeek-V4's ops, one safetensors file OP.safetensors each: adversarial "
    "inputs,\n"
    "expected outputs computed in double, and the bound within which an engine's results may lie, derived\n"
    "from the roundings of the model. dsv4_check compares an engine's outputs with them.\n"
    "The same arguments give the same bytes on every machine.";

constexpr const char* kExits =
    "Sizes: of --config, then the explicit ones. Exit: 0 done, 2 unusable input (one line says why).";

struct Options {
  std::string config = "tiny", out;
  std::vector<std::string> ops;
  std::uint64_t seed = 1;
  bool list = false;
  int hidden = 0, heads = 0, index_heads = 0, top_k = 0, groups = 0, o_lora = 0, experts = 0, active = 0,
      inner = 0;
};

Sizes sizes_for(const Options& o) {
  Sizes s = sizes_of(o.config);
  const auto set = [](std::int32_t& size, int given) {
    if (given != 0) size = given;
  };
  set(s.hidden, o.hidden), set(s.heads, o.heads), set(s.index_heads, o.index_heads),
      set(s.index_top_k, o.top_k);
  set(s.o_groups, o.groups), set(s.o_lora_rank, o.o_lora);
  set(s.experts, o.experts), set(s.active_experts, o.active), set(s.expert_inner, o.inner);
  if (const dsv4::Status status = validate(s); !status.ok())
    throw InputError(fmt::format("{} (value {}, limit {})", status.what, status.value, status.limit));
  if (s.hidden % 32 != 0 || s.expert_inner % 32 != 0)
    throw InputError(
        fmt::format("--hidden {} and --inner {} must be multiples of 32", s.hidden, s.expert_inner));
  return s;
}

void list(const std::vector<const Op*>& chosen, const Sizes& sizes, std::uint64_t seed) {
  for (const Op* op : chosen) {
    fmt::print("{}: {}\n", op->name, op->about);
    for (const Case& c : op->cases(sizes, seed)) fmt::print("  {:<20} {}\n", c.name, c.catches);
    for (const Mistake m : op->mistakes) fmt::print("  mistake {:<26} {}\n", info(m).name, info(m).sentence);
  }
}

int run(const Options& o) {
  std::vector<const Op*> chosen;
  for (const std::string& name : o.ops) {
    const Op* op = find_op(name);
    if (op == nullptr)
      throw InputError(fmt::format("--ops: unknown op '{}' (--list names them)", printable(name)));
    chosen.push_back(op);
  }
  if (chosen.empty())
    for (const Op& op : ops()) chosen.push_back(&op);
  const Sizes sizes = sizes_for(o);
  if (o.list) {
    list(chosen, sizes, o.seed);
    return 0;
  }
  if (o.out.empty()) throw InputError("--out is required (or --list)");
  const std::filesystem::path out = o.out;
  std::error_code error;
  std::filesystem::create_directories(out, error);
  if (error) throw InputError(fmt::format("{}: cannot create: {}", printable_path(out), error.message()));
  for (const Op* op : chosen) {
    const std::vector<std::byte> bytes = vectors_bytes(*op, sizes, o.config, o.seed);
    const std::array chunks = {std::span<const std::byte>(bytes)};
    const std::filesystem::path path = out / fmt::format("{}.safetensors", op->name);
    write_atomically(path, chunks);
    fmt::print("{} ({} bytes)\n", printable_path(path), bytes.size());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app(kAbout);
  app.footer(kExits);
  Options o;
  app.add_option("--config", o.config, "tiny, flash, pro, or the config.json of a checkpoint")
      ->capture_default_str();
  app.add_option("--ops", o.ops, "only these ops")->delimiter(',');
  app.add_option("--seed", o.seed, "of the random numbers")->capture_default_str();
  app.add_option("--out", o.out, "folder to write to");
  app.add_flag("--list", o.list, "print ops, cases and what each catches, and stop");
  const auto size = [&](const char* name, int& value, const char* what) {
    app.add_option(name, value, what)->check(CLI::Range(1, 1 << 20));
  };
  size("--hidden", o.hidden, "hidden size D");
  size("--heads", o.heads, "query heads H");
  size("--index-heads", o.index_heads, "the indexer's heads");
  size("--top-k", o.top_k, "entries that the indexer selects");
  size("--groups", o.groups, "groups of the output projection");
  size("--o-lora", o.o_lora, "rank of the output projection");
  size("--experts", o.experts, "routed experts E (of moe_gate)");
  size("--active", o.active, "experts of a token k");
  size("--inner", o.inner, "inner size of an expert");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // --help
    fmt::print(stderr, "dsv4_vectors: {} (--help lists the options)\n", error.what());
    return 2;
  }
  try {
    return run(o);
  } catch (const std::exception& error) {
    fmt::print(stderr, "dsv4_vectors: {}\n", error.what());
    return 2;
  }
}
