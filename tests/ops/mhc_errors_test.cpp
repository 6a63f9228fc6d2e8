// What the launchers of mHC refuse, and with which status.
#include <dsv4/core/workspace.hpp>

#include "tests/support/catch.hpp"
#include "tests/support/mhc_batch.hpp"

#include <cstdint>
#include <limits>
#include <vector>

using namespace dsv4;
using namespace dsv4::test;

namespace {

constexpr std::int64_t kTokens = 2, kHidden = 128;

/// Valid parameters of each op, bf16, and the memory behind them.
struct Valid {
  MhcInputs<bf16> in{kTokens, kHidden};
  MhcInputs<bf16> head_in{kTokens, kHidden, 4};
  MhcPostBuffers<bf16> b{in, Lay::kContiguous};
  Rows<bf16> mixed{kTokens, 4 * kHidden};
  MhcOutputs<bf16> out{kTokens, kHidden, Lay::kContiguous};
  MhcWorkspace memory{1 << 20};

  ops::MhcPostParams post() { return post_params(in, mixed, b.y, b.streams, b.post, b.comb); }
  ops::MhcPreParams pre() {
    ops::MhcPreParams p = pre_params(in, mixed, out);
    p.workspace = memory.bytes.data();
    p.workspace_bytes = ops::mhc_pre_workspace_bytes(p);
    return p;
  }
  ops::MhcHeadParams head() {
    ops::MhcHeadParams p = {.x = out.x.data(),
                            .normed = out.normed.data(),
                            .pre = out.pre.data(),
                            .mixes = out.post.data(),
                            .streams = b.streams.data(),
                            .fn = head_in.fn.data(),
                            .scale = in.scale.data(),
                            .base = in.base.data(),
                            .norm_weight = in.norm_weight.data(),
                            .workspace = memory.bytes.data(),
                            .tokens = kTokens,
                            .hidden = kHidden,
                            .stream_count = 4};
    p.workspace_bytes = ops::mhc_head_workspace_bytes(p);
    return p;
  }
};

template <class P>
P* beyond(P* p, std::int64_t bytes) {  // for pointers that are checked, not used
  return reinterpret_cast<P*>(reinterpret_cast<std::uintptr_t>(p) + static_cast<std::uintptr_t>(bytes));
}
template <class P>
const void* beyond_void(const P* p, std::int64_t bytes) {
  return reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(p) +
                                       static_cast<std::uintptr_t>(bytes));
}
void* beyond(void* p, std::int64_t bytes) { return static_cast<char*>(p) + bytes; }

// One changed parameter, and the refusal.
#define REFUSES(op, params, change, code, value, limit, text)             \
  do {                                                                    \
    auto p = params;                                                      \
    change;                                                               \
    REQUIRE_REFUSED(ops::op(p, nullptr), Code::code, value, limit, text); \
  } while (0)

}  // namespace

TEST_CASE("the parameters of the error tests are valid", "[ops][mhc][errors]") {
  Valid v;
  REQUIRE_OK(ops::mhc_post(v.post(), nullptr));
  REQUIRE_OK(ops::mhc_pre(v.pre(), nullptr));
  REQUIRE_OK(ops::mhc_post_pre({.post = v.post(), .pre = v.pre()}, nullptr));
  REQUIRE_OK(ops::mhc_head(v.head(), nullptr));
}

TEST_CASE("mhc_post refuses what it cannot do", "[ops][mhc][errors]") {
  Valid v;
  REFUSES(mhc_post, v.post(), p.tokens = -1, kInvalidArgument, -1, 1 << 26, "mhc_post: tokens");
  REFUSES(mhc_post, v.post(), p.tokens = (1 << 26) + 1, kInvalidArgument, (1 << 26) + 1, 1 << 26, "tokens");
  REFUSES(mhc_post, v.post(), p.hidden = 0, kInvalidArgument, 0, 1, "hidden");
  REFUSES(mhc_post, v.post(), p.hidden = 16416, kUnsupported, 16416, 16384, "hidden");
  REFUSES(mhc_post, v.post(), p.hidden = 120, kUnsupported, 120, 32, "hidden must be a multiple of 32");
  REFUSES(mhc_post, v.post(), p.stream_count = 2, kUnsupported, 2, 4, "stream_count");
  REFUSES(mhc_post, v.post(), p.dtype = ops::DType{7}, kUnsupported, 7, 0, "dtype");
  REFUSES(mhc_post, v.post(), p.out_stride = 511, kInvalidArgument, 511, 512, "out_stride");
  REFUSES(mhc_post, v.post(), p.out_stride = -512, kInvalidArgument, -512, 512, "out_stride");
  REFUSES(mhc_post, v.post(), p.out_stride = 516, kInvalidArgument, 516, 8, "out_stride");
  REFUSES(mhc_post, v.post(), p.y_stride = 127, kInvalidArgument, 127, 128, "y_stride");
  REFUSES(mhc_post, v.post(), p.y_stride = 132, kInvalidArgument, 132, 8, "y_stride");
  REFUSES(mhc_post, v.post(), p.streams_stride = 500, kInvalidArgument, 500, 512, "streams_stride");
  REFUSES(mhc_post, v.post(), p.streams_stride = 513, kInvalidArgument, 513, 8, "streams_stride");
  REFUSES(mhc_post, v.post(), p.post_stride = 3, kInvalidArgument, 3, 4, "post_stride");
  REFUSES(mhc_post, v.post(), p.post_stride = 5, kInvalidArgument, 5, 4, "post_stride");
  REFUSES(mhc_post, v.post(), p.comb_stride = 15, kInvalidArgument, 15, 16, "comb_stride");
  REFUSES(mhc_post, v.post(), p.comb_stride = 17, kInvalidArgument, 17, 4, "comb_stride");
  REFUSES(mhc_post, v.post(), (p.out = v.b.streams.data(), p.out_stride = 520), kInvalidArgument, 520, 512,
          "out_stride must be streams_stride");
  REFUSES(mhc_post, v.post(), p.out = nullptr, kInvalidArgument, 0, 0, "out must not be null");
  REFUSES(mhc_post, v.post(), p.y = nullptr, kInvalidArgument, 0, 0, "y must not be null");
  REFUSES(mhc_post, v.post(), p.streams = nullptr, kInvalidArgument, 0, 0, "streams must not be null");
  REFUSES(mhc_post, v.post(), p.post = nullptr, kInvalidArgument, 0, 0, "post must not be null");
  REFUSES(mhc_post, v.post(), p.comb = nullptr, kInvalidArgument, 0, 0, "comb must not be null");
  REFUSES(mhc_post, v.post(), p.out = beyond(p.out, 8), kInvalidArgument, 8, 16, "out must be aligned");
  REFUSES(mhc_post, v.post(), p.y = beyond_void(v.b.y.data(), 2), kInvalidArgument, 2, 16,
          "y must be aligned");
  REFUSES(mhc_post, v.post(), p.streams = beyond_void(v.b.streams.data(), 2), kInvalidArgument, 2, 16,
          "streams must be aligned");
  REFUSES(mhc_post, v.post(), p.post = beyond(p.post, 4), kInvalidArgument, 4, 16, "post must be aligned");
  REFUSES(mhc_post, v.post(), p.comb = beyond(p.comb, 8), kInvalidArgument, 8, 16, "comb must be aligned");
}

TEST_CASE("mhc_pre refuses what it cannot do", "[ops][mhc][errors]") {
  Valid v;
  const auto needed = static_cast<std::int64_t>(ops::mhc_pre_workspace_bytes(v.pre()));
  REFUSES(mhc_pre, v.pre(), p.tokens = -5, kInvalidArgument, -5, 1 << 26, "mhc_pre: tokens");
  REFUSES(mhc_pre, v.pre(), p.hidden = -32, kInvalidArgument, -32, 1, "hidden");
  REFUSES(mhc_pre, v.pre(), p.hidden = 1 << 20, kUnsupported, 1 << 20, 16384, "hidden");
  REFUSES(mhc_pre, v.pre(), p.hidden = 136, kUnsupported, 136, 32, "hidden must be a multiple of 32");
  REFUSES(mhc_pre, v.pre(), p.stream_count = 8, kUnsupported, 8, 4, "stream_count");
  REFUSES(mhc_pre, v.pre(), p.dtype = ops::DType{2}, kUnsupported, 2, 0, "dtype");
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  REFUSES(mhc_pre, v.pre(), p.mix_eps = -1.0f, kInvalidArgument, 0, 0, "mix_eps");
  REFUSES(mhc_pre, v.pre(), p.hc_eps = kNan, kInvalidArgument, 0, 0, "hc_eps");
  REFUSES(mhc_pre, v.pre(), p.norm_eps = -1e-6f, kInvalidArgument, 0, 0, "norm_eps");
  REFUSES(mhc_pre, v.pre(), p.sinkhorn_iterations = -1, kInvalidArgument, -1, 0, "sinkhorn_iterations");
  REFUSES(mhc_pre, v.pre(), p.streams_stride = 510, kInvalidArgument, 510, 512, "streams_stride");
  REFUSES(mhc_pre, v.pre(), p.streams_stride = 514, kInvalidArgument, 514, 8, "streams_stride");
  REFUSES(mhc_pre, v.pre(), p.x_stride = 1, kInvalidArgument, 1, 128, "x_stride");
  REFUSES(mhc_pre, v.pre(), p.x_stride = 130, kInvalidArgument, 130, 8, "x_stride");
  REFUSES(mhc_pre, v.pre(), p.normed_stride = 1, kInvalidArgument, 1, 128, "normed_stride");
  REFUSES(mhc_pre, v.pre(), p.normed_stride = 132, kInvalidArgument, 132, 8, "normed_stride");
  REFUSES(mhc_pre, v.pre(), p.pre_stride = 3, kInvalidArgument, 3, 4, "pre_stride");
  REFUSES(mhc_pre, v.pre(), p.mixes_stride = 23, kInvalidArgument, 23, 24, "mixes_stride");
  REFUSES(mhc_pre, v.pre(), p.post_stride = 3, kInvalidArgument, 3, 4, "post_stride");
  REFUSES(mhc_pre, v.pre(), p.comb_stride = 15, kInvalidArgument, 15, 16, "comb_stride");
  REFUSES(mhc_pre, v.pre(), p.quantised.codes_stride = 100, kInvalidArgument, 100, 128,
          "quantised.codes_stride");
  REFUSES(mhc_pre, v.pre(), p.quantised.codes_stride = 129, kInvalidArgument, 129, 8,
          "quantised.codes_stride");
  REFUSES(mhc_pre, v.pre(), p.quantised.scale_type = ops::ScaleType{4}, kUnsupported, 4, 0,
          "mhc_pre: quantised.scale_type");
  REFUSES(mhc_pre, v.pre(), p.quantised.scale_layout = ops::ScaleLayout{4}, kUnsupported, 4, 0,
          "quantised.scale_layout");
  REFUSES(mhc_pre, v.pre(),
          (p.quantised.scale_layout = ops::ScaleLayout::kColumnMajor, p.quantised.scales_stride = 1),
          kInvalidArgument, 1, 2, "quantised.scales_stride");
  REFUSES(mhc_pre, v.pre(), (p.x = p.normed = nullptr, p.quantised = {}, p.norm_weight = nullptr),
          kInvalidArgument, 0, 0, "x must not be null where nothing else is wanted");
  REFUSES(mhc_pre, v.pre(), p.x = beyond(p.x, 4), kInvalidArgument, 4, 16, "x must be aligned");
  REFUSES(mhc_pre, v.pre(), p.normed = beyond(p.normed, 2), kInvalidArgument, 2, 16,
          "normed must be aligned");
  REFUSES(mhc_pre, v.pre(), p.pre = beyond(p.pre, 2), kInvalidArgument, 2, 4, "pre must be aligned");
  REFUSES(mhc_pre, v.pre(), p.mixes = beyond(p.mixes, 1), kInvalidArgument, 1, 4, "mixes must be aligned");
  REFUSES(mhc_pre, v.pre(), p.streams = nullptr, kInvalidArgument, 0, 0, "streams must not be null");
  REFUSES(mhc_pre, v.pre(), p.streams = beyond_void(v.mixed.data(), 2), kInvalidArgument, 2, 16,
          "streams must be aligned");
  REFUSES(mhc_pre, v.pre(), p.fn = nullptr, kInvalidArgument, 0, 0, "fn must not be null");
  REFUSES(mhc_pre, v.pre(), p.fn = beyond(p.fn, 4), kInvalidArgument, 4, 16, "fn must be aligned");
  REFUSES(mhc_pre, v.pre(), p.scale = nullptr, kInvalidArgument, 0, 0, "scale must not be null");
  REFUSES(mhc_pre, v.pre(), p.scale = beyond(p.scale, 2), kInvalidArgument, 2, 4, "scale must be aligned");
  REFUSES(mhc_pre, v.pre(), p.base = nullptr, kInvalidArgument, 0, 0, "base must not be null");
  REFUSES(mhc_pre, v.pre(), p.base = beyond(p.base, 2), kInvalidArgument, 2, 4, "base must be aligned");
  REFUSES(mhc_pre, v.pre(), p.norm_weight = nullptr, kInvalidArgument, 0, 0, "norm_weight must be given");
  REFUSES(mhc_pre, v.pre(), (p.normed = nullptr, p.quantised = {}), kInvalidArgument, 0, 0,
          "norm_weight must be given where a normed output is wanted, and only then");
  REFUSES(mhc_pre, v.pre(), p.norm_weight = beyond(p.norm_weight, 4), kInvalidArgument, 4, 16,
          "norm_weight must be aligned");
  REFUSES(mhc_pre, v.pre(), p.post = nullptr, kInvalidArgument, 0, 0, "post must not be null");
  REFUSES(mhc_pre, v.pre(), p.post = beyond(p.post, 2), kInvalidArgument, 2, 4, "post must be aligned");
  REFUSES(mhc_pre, v.pre(), p.comb = nullptr, kInvalidArgument, 0, 0, "comb must not be null");
  REFUSES(mhc_pre, v.pre(), p.comb = beyond(p.comb, 1), kInvalidArgument, 1, 4, "comb must be aligned");
  REFUSES(mhc_pre, v.pre(), p.quantised.codes = beyond(p.quantised.codes, 4), kInvalidArgument, 4, 8,
          "quantised.codes must be aligned");
  REFUSES(mhc_pre, v.pre(), p.quantised.scales = nullptr, kInvalidArgument, 0, 0,
          "quantised.scales must not be null");
  REFUSES(mhc_pre, v.pre(),
          (p.quantised.scale_type = ops::ScaleType::kF32,
           p.quantised.scales = reinterpret_cast<void*>(std::uintptr_t{0x1002})),
          kInvalidArgument, 2, 4, "quantised.scales must be aligned");
  REFUSES(mhc_pre, v.pre(), p.workspace_bytes -= 1, kWorkspaceTooSmall, needed - 1, needed,
          "workspace_bytes");
  REFUSES(mhc_pre, v.pre(), p.workspace = nullptr, kInvalidArgument, 0, 0, "workspace must not be null");
  REFUSES(mhc_pre, v.pre(), p.workspace = beyond(p.workspace, 128), kInvalidArgument, 128, 256,
          "workspace must be aligned");
}

TEST_CASE("mhc_post_pre refuses what either half does, and halves that do not fit", "[ops][mhc][errors]") {
  Valid v;
  const ops::MhcPostPreParams valid = {.post = v.post(), .pre = v.pre()};
  REFUSES(mhc_post_pre, valid, p.post.tokens = -1, kInvalidArgument, -1, 1 << 26,
          "mhc_post_pre: post.tokens");
  REFUSES(mhc_post_pre, valid, p.pre.tokens = -1, kInvalidArgument, -1, 1 << 26, "mhc_post_pre: pre.tokens");
  REFUSES(mhc_post_pre, valid, p.pre.tokens = 1, kInvalidArgument, 1, 2, "pre.tokens must be post.tokens");
  REFUSES(mhc_post_pre, valid, p.pre.hidden = 96, kInvalidArgument, 96, 128,
          "pre.hidden must be post.hidden");
  REFUSES(mhc_post_pre, valid, p.pre.dtype = ops::DType::kF32, kInvalidArgument, 1, 0,
          "pre.dtype must be post.dtype");
  REFUSES(mhc_post_pre, valid, p.pre.streams_stride = 520, kInvalidArgument, 520, 512,
          "pre.streams_stride must be post.out_stride");
  REFUSES(mhc_post_pre, valid, p.pre.streams = v.b.streams.data(), kInvalidArgument, 0, 0,
          "pre.streams must be post.out");
  REFUSES(mhc_post_pre, valid, p.post.y = nullptr, kInvalidArgument, 0, 0, "post.y must not be null");
  REFUSES(mhc_post_pre, valid, p.pre.fn = nullptr, kInvalidArgument, 0, 0, "pre.fn must not be null");
  REFUSES(mhc_post_pre, valid, p.pre.workspace_bytes = 0, kWorkspaceTooSmall, 0,
          ops::mhc_post_pre_workspace_bytes(valid), "pre.workspace_bytes");
}

TEST_CASE("mhc_head refuses what it cannot do", "[ops][mhc][errors]") {
  Valid v;
  REFUSES(mhc_head, v.head(), p.tokens = -1, kInvalidArgument, -1, 1 << 26, "mhc_head: tokens");
  REFUSES(mhc_head, v.head(), p.hidden = 31, kUnsupported, 31, 32, "hidden");
  REFUSES(mhc_head, v.head(), p.stream_count = 0, kUnsupported, 0, 4, "stream_count");
  REFUSES(mhc_head, v.head(), p.mixes_stride = 3, kInvalidArgument, 3, 4, "mixes_stride");
  REFUSES(mhc_head, v.head(), p.streams = nullptr, kInvalidArgument, 0, 0, "streams must not be null");
  REFUSES(mhc_head, v.head(), (p.x = p.normed = nullptr, p.norm_weight = nullptr), kInvalidArgument, 0, 0,
          "x must not be null");
  REFUSES(mhc_head, v.head(), p.norm_weight = nullptr, kInvalidArgument, 0, 0, "norm_weight must be given");
  REFUSES(mhc_head, v.head(), p.workspace_bytes = 3, kWorkspaceTooSmall, 3,
          ops::mhc_head_workspace_bytes(v.head()), "workspace_bytes");
}

TEST_CASE("mHC of no tokens is ok without any pointer", "[ops][mhc][errors]") {
  for (const ops::DType dtype : {ops::DType::kBf16, ops::DType::kF32}) {
    const ops::MhcPostParams post = {.hidden = 128, .stream_count = 4, .dtype = dtype};
    const ops::MhcPreParams pre = {.hidden = 128, .stream_count = 4, .dtype = dtype};
    REQUIRE_OK(ops::mhc_post(post, nullptr));
    REQUIRE_OK(ops::mhc_pre(pre, nullptr));
    REQUIRE_OK(ops::mhc_post_pre({.post = post, .pre = pre}, nullptr));
    REQUIRE_OK(ops::mhc_head({.hidden = 128, .stream_count = 4, .dtype = dtype}, nullptr));
    REQUIRE(ops::mhc_pre_workspace_bytes(pre) == 0);
  }
}

TEST_CASE("the workspace of mHC never shrinks as a size grows", "[ops][mhc][errors]") {
  const auto bytes = [](std::int64_t tokens, std::int64_t hidden) {
    const ops::MhcPreParams p = {.tokens = tokens, .hidden = hidden};
    const std::size_t n = ops::mhc_pre_workspace_bytes(p);
    REQUIRE(ops::mhc_head_workspace_bytes({.tokens = tokens, .hidden = hidden}) == n);
    REQUIRE(ops::mhc_post_pre_workspace_bytes({.post = {}, .pre = p}) == n);
    REQUIRE(n % kWorkspaceAlignment == 0);
    return n;
  };
  for (const std::int64_t hidden : {32, 128, 4096, 7168, 16384})
    for (std::int64_t tokens = 1; tokens < 3000; ++tokens)
      REQUIRE(bytes(tokens, hidden) >= bytes(tokens - 1, hidden));
  for (const std::int64_t tokens : {1, 256, 257, 8192})
    for (std::int64_t hidden = 32; hidden <= 16384; hidden += 32)
      REQUIRE(bytes(tokens, hidden) >= bytes(tokens, hidden - 32));
  // Out of range: as the nearest in range.
  REQUIRE(bytes(-3, 128) == 0);
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max();
  REQUIRE(bytes(kMax, kMax) == bytes(1 << 26, 16384));
  REQUIRE(ops::mhc_pre_workspace_bytes({.tokens = 100, .hidden = 128, .dtype = ops::DType::kF32}) == 0);
}
