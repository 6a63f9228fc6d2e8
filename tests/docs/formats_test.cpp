// The numbers of docs/formats.md are those of the headers.
#include <dsv4/attention/compressor_state.hpp>
#include <dsv4/attention/kv_cache.hpp>
#include <dsv4/model_config.hpp>

#include "reference/context_cost/cost.hpp"
#include "tests/docs/snippets.hpp"
#include "tests/support/catch.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <regex>
#include <string>

namespace {

using namespace dsv4;
using namespace dsv4::reference::context_cost;

// 1234567 as "1,234,567".
std::string grouped(std::int64_t n) {
  std::string out = std::to_string(n);
  for (std::size_t i = out.size(); i > 3; i -= 3) out.insert(i - 3, ",");
  return out;
}

std::int64_t expert_bytes(const ModelConfig& c) {
  const std::int64_t weights = std::int64_t{3} * c.hidden * c.expert_inner;
  return weights / 2 + weights / 32;
}

std::int64_t state_bytes(int ratio, int dim, int rollback) {
  return static_cast<std::int64_t>(attention::CompressorLayout{{ratio, dim}, rollback}.bytes());
}

// Bytes that another block of 128 tokens adds to a long sequence, a token of it.
double added(const ModelConfig& c) {
  const Model model{"", c};
  return (cache_bytes(model, 2048, {}).total - cache_bytes(model, 1024, {}).total) / 1024;
}

}  // namespace

TEST_CASE("docs: the bytes of formats.md") {
  // Sentences go on over the ends of lines.
  const std::string text =
      std::regex_replace(test::read_file(test::docs::root() / "docs/formats.md"), std::regex("\\s+"), " ");
  const auto says = [&](const std::string& part) {
    CAPTURE(part);
    REQUIRE(text.find(part) != std::string::npos);
  };
  says("512 channels, " + std::to_string(attention::KvPagePool::kEntryBytes) + " bytes");
  says("data of row t at " + std::to_string(attention::KvPagePool::kDataBytes) + " t");
  says("128 channels, " + std::to_string(attention::IndexFp4Pool::kEntryBytes) + " bytes");
  says("128 channels, " + std::to_string(attention::IndexFp8Pool::kEntryBytes) + " bytes");
  says(grouped(std::int64_t{kWindow} * attention::KvPagePool::kEntryBytes) + " bytes a layer and sequence");

  says(grouped(expert_bytes(kFlash)) + " bytes in V4-Flash");
  says(grouped(expert_bytes(kPro)) + " in V4-Pro");
  const auto row = [&](const std::string& formula, int ratio, int dim) {
    says("| " + formula + " | " + grouped(state_bytes(ratio, dim, 0)) + " | " +
         grouped(state_bytes(ratio, dim, 16)) + " |");
  };
  row("8192 (R + 7)", 4, 512);
  row("2048 (R + 7)", 4, 128);
  row("4096 (R + 15) + 6160", 128, 512);

  says(std::to_string(std::lround(added(kFlash))) + " in all 41 compressing layers of V4-Flash");
  says(std::to_string(std::lround(added(kPro))) + " in the 61 of V4-Pro");
  says(grouped(std::llround(cache_bytes({"", kV32}, 1, {}).total)) + " in V3.2");
}
