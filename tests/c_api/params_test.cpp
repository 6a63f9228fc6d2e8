// Params structs of every version: defaults, smaller and larger structs, and what is no struct at all.
#include "tests/c_api/op_rows.hpp"
#include "tests/support/catch.hpp"

#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

using namespace dsv4;
using test::c_ops;
using test::COp;

namespace {

constexpr std::size_t kHead = sizeof(std::size_t);

/// Memory for a params struct of any size, aligned, filled with `byte`.
class Memory {
 public:
  explicit Memory(std::size_t bytes, unsigned char byte = 0xa5) : words_(bytes / 16 + 1), bytes_(bytes) {
    std::memset(words_.data(), byte, words_.size() * sizeof words_[0]);
  }
  unsigned char* data() { return reinterpret_cast<unsigned char*>(words_.data()); }
  void set_size(std::size_t size) { std::memcpy(data(), &size, sizeof size); }
  bool filled_with(unsigned char byte, std::size_t from) {
    for (std::size_t i = from; i < bytes_; ++i)
      if (data()[i] != byte) return false;
    return true;
  }

 private:
  struct alignas(16) Word {
    unsigned char bytes[16];
  };
  std::vector<Word> words_;
  std::size_t bytes_;
};

Memory defaults(const COp& op, std::size_t size) {
  Memory m(size);
  REQUIRE(dsv4_params_init(op.name, m.data(), size) == DSV4_OK);
  return m;
}

/// The outcome of a call: its code and, where it failed, its message.
std::string outcome(const COp& op, const void* params) {
  const int code = op.call(params);
  return std::to_string(code) + (code == DSV4_OK ? "" : std::string(" ") + dsv4_last_error());
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// Refused with `code` and a message that names the op and contains `text`, by the op and by its queries.
void require_refused(const COp& op, const void* params, int code, const std::string& text) {
  CAPTURE(op.name, text);
  REQUIRE(op.call(params) == code);
  const std::string message = dsv4_last_error();
  REQUIRE(message.rfind(std::string(op.name) + ": ", 0) == 0);
  REQUIRE(contains(message, text));
  for (const auto query : op.queries) {
    REQUIRE(op.call(nullptr) == DSV4_INVALID_ARGUMENT);  // another message, for the query to replace
    REQUIRE(query(params) == 0);
    REQUIRE(dsv4_last_error() == message);
  }
}

}  // namespace

TEST_CASE("params_init gives every op's C++ defaults, for structs of every size", "[c_api][params]") {
  REQUIRE(c_ops().size() == 28);
  for (const COp& op : c_ops()) {
    CAPTURE(op.name);
    for (const std::size_t size : {op.size, 2 * kHead, op.size - 1, op.size + 1, op.size + 200}) {
      CAPTURE(size);
      Memory m(size + 64);
      REQUIRE(dsv4_params_init(op.name, m.data(), size) == DSV4_OK);
      std::size_t said = 0;
      std::memcpy(&said, m.data(), sizeof said);
      REQUIRE(said == size);
      const std::size_t known = std::min(size, op.size);
      REQUIRE(std::memcmp(m.data() + kHead, op.defaults, known - kHead) == 0);
      for (std::size_t i = known; i < size; ++i) REQUIRE(m.data()[i] == 0);
      REQUIRE(m.filled_with(0xa5, size));
    }
  }
}

TEST_CASE("defaults that are not zero", "[c_api][params]") {
  dsv4_linear_fp8_params linear;
  REQUIRE(dsv4_linear_fp8_params_init(&linear) == DSV4_OK);
  REQUIRE(linear.quantise);
  dsv4_attn_attend_params attend;
  REQUIRE(dsv4_attn_attend_params_init(&attend) == DSV4_OK);
  REQUIRE((std::isinf(attend.empty_lse) && attend.empty_lse < 0));
  REQUIRE(attend.entries.table.page_rows == 1);
  dsv4_moe_gate_params gate;
  REQUIRE(dsv4_moe_gate_params_init(&gate) == DSV4_OK);
  REQUIRE(gate.route_scale == 1.0f);
  dsv4_attn_qk_prep_params prep;
  REQUIRE(dsv4_attn_qk_prep_params_init(&prep) == DSV4_OK);
  REQUIRE(prep.index.format == DSV4_CACHE_INDEX_FP4);
}

TEST_CASE("params_init refuses", "[c_api][params]") {
  Memory m(256);
  const auto refused = [&](const char* op, void* p, std::size_t size, const char* text) {
    CAPTURE(text);
    REQUIRE(dsv4_params_init(op, p, size) == DSV4_INVALID_ARGUMENT);
    REQUIRE(contains(dsv4_last_error(), text));
    REQUIRE(m.filled_with(0xa5, 0));
  };
  refused(nullptr, m.data(), 64, "must not be null");
  refused("rope", nullptr, 64, "rope: op and params must not be null");
  refused("rope", m.data(), 0, "struct_size");
  refused("rope", m.data(), 2 * kHead - 1, "struct_size");
  refused("rope", m.data(), 65537, "value 65537");
  refused("Rope", m.data(), 64, "no op of this name");
  refused("", m.data(), 64, "no op of this name");
}

TEST_CASE("no op takes a null pointer, a misaligned one, or a struct_size that is none", "[c_api][params]") {
  for (const COp& op : c_ops()) {
    require_refused(op, nullptr, DSV4_INVALID_ARGUMENT, "params must not be null");
    Memory m = defaults(op, op.size + 8);
    require_refused(op, m.data() + 4, DSV4_INVALID_ARGUMENT, "params must be aligned (value 4, limit 8)");
    for (const std::size_t size : {std::size_t{0}, std::size_t{1}, kHead, 2 * kHead - 1, std::size_t{65537},
                                   std::size_t{0xa5a5a5a5a5a5a5a5u}, ~std::size_t{0}}) {
      m.set_size(size);
      require_refused(op, m.data(), DSV4_INVALID_ARGUMENT, "call params_init first");
      REQUIRE(contains(dsv4_last_error(), "(value " + std::to_string(static_cast<std::int64_t>(size)) +
                                              ", limit " + std::to_string(op.size)));
    }
  }
}

TEST_CASE("a smaller struct stands for one with defaults behind it", "[c_api][params]") {
  for (const COp& op : c_ops()) {
    CAPTURE(op.name);
    Memory whole = defaults(op, op.size);
    const std::string expected = outcome(op, whole.data());
    for (std::size_t size = 2 * kHead; size < op.size; size += kHead) {
      Memory m(op.size);  // what lies behind the struct is no default
      std::memcpy(m.data(), whole.data(), size);
      m.set_size(size);
      CAPTURE(size);
      REQUIRE(outcome(op, m.data()) == expected);
      for (const auto query : op.queries) REQUIRE(query(m.data()) == query(whole.data()));
    }
  }
}

TEST_CASE("a larger struct is served if what is unknown of it is zero", "[c_api][params]") {
  for (const COp& op : c_ops()) {
    CAPTURE(op.name);
    Memory whole = defaults(op, op.size);
    const std::string expected = outcome(op, whole.data());
    for (const std::size_t more : {1u, 8u, 64u}) {
      const std::size_t size = op.size + more;
      Memory m = defaults(op, size);
      REQUIRE(outcome(op, m.data()) == expected);
      for (const auto query : op.queries) REQUIRE(query(m.data()) == query(whole.data()));
      for (const std::size_t at : {op.size, size - 1}) {
        m.data()[at] = 1;
        require_refused(op, m.data(), DSV4_UNSUPPORTED, "a field that this older library does not know");
        m.data()[at] = 0;
      }
    }
    Memory most = defaults(op, 65536);  // the most that a struct may ever have
    REQUIRE(outcome(op, most.data()) == expected);
  }
}

TEST_CASE("an op called with an older struct computes what it computes with today's", "[c_api][params]") {
  const std::array<std::uint16_t, 16> x = {0x3f80, 0x4000, 0xbf80, 0x4040, 0, 0x3f00, 0xc000, 0x3f80,
                                           0x4080, 0x3f80, 0x3f80, 0xbf00, 0, 0x4000, 0x4000, 0x4000};
  std::array<std::uint16_t, 16> today{}, older{};
  dsv4_rms_norm_params p;
  REQUIRE(dsv4_rms_norm_params_init(&p) == DSV4_OK);
  p.x = x.data(), p.out = today.data(), p.rows = 2, p.n = 8, p.eps = 1e-6f;
  REQUIRE(dsv4_rms_norm(&p, nullptr) == DSV4_OK);
  REQUIRE(today[0] != 0);
  p.struct_size = offsetof(dsv4_rms_norm_params, out_stride);
  p.out = older.data(), p.out_stride = p.x_stride = -1;  // not part of it
  REQUIRE(dsv4_rms_norm(&p, nullptr) == DSV4_OK);
  REQUIRE(older == today);
  p.struct_size = sizeof p;
  REQUIRE(dsv4_rms_norm(&p, nullptr) == DSV4_INVALID_ARGUMENT);
  REQUIRE(std::string(dsv4_last_error()).rfind("rms_norm: x_stride", 0) == 0);
}

TEST_CASE("a message has the op, the argument, the value and the limit", "[c_api][errors]") {
  dsv4_embed_params p;
  REQUIRE(dsv4_embed_params_init(&p) == DSV4_OK);
  p.hidden = 8, p.vocab = 3, p.streams = 2;
  REQUIRE(dsv4_embed(&p, nullptr) == DSV4_UNSUPPORTED);
  const std::string message = dsv4_last_error();
  REQUIRE(message.rfind("embed: ", 0) == 0);
  REQUIRE(message.find("embed:", 1) == std::string::npos);
  REQUIRE(contains(message, "(value 2, limit 4)"));
  p.streams = 4;
  REQUIRE(dsv4_embed(&p, nullptr) == DSV4_OK);
  REQUIRE(dsv4_last_error() == message);  // until the next failure
}

TEST_CASE("each thread has its own message", "[c_api][errors][threads]") {
  REQUIRE(dsv4_rope(nullptr, nullptr) == DSV4_INVALID_ARGUMENT);
  const std::string mine = dsv4_last_error();
  std::string at_first = "x", other;
  std::thread([&] {
    at_first = dsv4_last_error();
    static_cast<void>(dsv4_lm_head(nullptr, nullptr));
    other = dsv4_last_error();
  }).join();
  REQUIRE(at_first.empty());
  REQUIRE(other.rfind("lm_head: ", 0) == 0);
  REQUIRE(dsv4_last_error() == mine);
  REQUIRE(mine.rfind("rope: ", 0) == 0);
}
