// What attn_select and attn_index_select refuse, and with which status.
#include "tests/ops/index_scores_case.hpp"
#include "tests/ops/select_case.hpp"

using namespace dsv4;
using namespace dsv4::test;

namespace {

template <class P>
P* beyond(P* p, std::int64_t bytes) {  // for pointers that are checked, not used
  return reinterpret_cast<P*>(reinterpret_cast<std::uintptr_t>(p) + static_cast<std::uintptr_t>(bytes));
}

}  // namespace

TEST_CASE("attn_select refuses what it cannot do", "[ops][attn_select][errors]") {
  const SelectCase c(20000, {20000, 3}, "random");
  Rows<std::int32_t> idx(2, 10);
  SelectWorkspace workspace(1 << 20);
  ops::AttnSelectParams valid = c.params(10);
  valid.output.idx = idx.data();
  valid.output.as_slots = true;
  valid.output.slots = 20000;
  valid.workspace_bytes = ops::attn_select_workspace_bytes(valid);
  valid.workspace = workspace.bytes.data();
  REQUIRE(valid.workspace_bytes > 0);
  REQUIRE_OK(ops::attn_select(valid, nullptr));
  const auto refused = [&](auto change, Code code, std::int64_t value, std::int64_t limit, const char* text) {
    ops::AttnSelectParams p = valid;
    change(p);
    CAPTURE(text);
    REQUIRE_REFUSED(ops::attn_select(p, nullptr), code, value, limit, text);
  };
  const auto invalid = [&](auto change, std::int64_t value, std::int64_t limit, const char* text) {
    refused(change, Code::kInvalidArgument, value, limit, text);
  };
  using P = ops::AttnSelectParams;
  invalid([](P& p) { p.tokens = -1; }, -1, INT32_MAX, "attn_select: tokens");
  invalid([](P& p) { p.tokens = std::int64_t{1} << 31; }, std::int64_t{1} << 31, INT32_MAX,
          "attn_select: tokens");
  invalid([](P& p) { p.max_entries = -1; }, -1, 1 << 20, "attn_select: max_entries");
  invalid([](P& p) { p.max_entries = (1 << 20) + 1; }, (1 << 20) + 1, 1 << 20, "attn_select: max_entries");
  invalid([](P& p) { p.scores_stride = 19999; }, 19999, 20000, "attn_select: scores_stride");
  invalid([](P& p) { p.output.k = 0; }, 0, 4096, "attn_select: output.k");
  invalid([](P& p) { p.output.k = 4097; }, 4097, 4096, "attn_select: output.k");
  invalid([](P& p) { p.output.idx_stride = 9; }, 9, 10, "attn_select: output.idx_stride");
  invalid([](P& p) { p.output.slots = -1; }, -1, INT32_MAX, "attn_select: output.slots");
  invalid([](P& p) { p.output.table.page_rows = 0; }, 0, 1, "attn_select: output.table.page_rows");
  invalid([](P& p) { p.output.table.ring = -1; }, -1, 0, "attn_select: output.table.ring");
  invalid([](P& p) { p.output.table.stride = -1; }, -1, 0, "attn_select: output.table.stride");
  invalid([](P& p) { p.output.table.sequences = -1; }, -1, 0, "attn_select: output.table.sequences");
  invalid([](P& p) { p.visible = {}; }, 0, 1, "attn_select: visible.ratio");
  invalid([](P& p) { p.visible = {.ratio = 4}; }, 0, 0, "attn_select: visible.positions");
  invalid([](P& p) { p.visible.counts = beyond(p.visible.counts, 1); }, 1, 4, "attn_select: visible.counts");
  invalid([](P& p) { p.output.idx = nullptr; }, 0, 0, "attn_select: output.idx");
  invalid([](P& p) { p.output.idx = beyond(p.output.idx, 2); }, 2, 4, "attn_select: output.idx");
  invalid([](P& p) { p.scores = nullptr; }, 0, 0, "attn_select: scores");
  invalid([](P& p) { p.scores = beyond(p.scores, 2); }, 2, 4, "attn_select: scores");
  invalid([&](P& p) { p.output.table.pages = beyond(c.visible.data(), 1); }, 1, 4,
          "attn_select: output.table.pages");
  invalid([](P& p) { p.workspace = nullptr; }, 0, 0, "attn_select: workspace");
  invalid([](P& p) { p.workspace = beyond(static_cast<char*>(p.workspace), 16); }, 16, 256,
          "attn_select: workspace");
  const auto needed = static_cast<std::int64_t>(valid.workspace_bytes);
  refused([](P& p) { --p.workspace_bytes; }, Code::kWorkspaceTooSmall, needed - 1, needed,
          "attn_select: workspace_bytes");
  // Sizes are checked where there are no tokens as well, pointers are not.
  invalid([](P& p) { p.tokens = 0, p.output.k = 0; }, 0, 4096, "attn_select: output.k");
  ops::AttnSelectParams empty = valid;
  empty.tokens = 0, empty.output.idx = nullptr, empty.scores = nullptr, empty.workspace_bytes = 0;
  REQUIRE_OK(ops::attn_select(empty, nullptr));
  // Nothing was written by any of them but the first.
  REQUIRE(idx.intact() == "");
}

TEST_CASE("attn_index_select refuses what it cannot do", "[ops][attn_index][errors]") {
  IndexCase c({.tokens = 2, .heads = 4, .max_entries = 3000});
  Rows<std::int32_t> idx(2, 10);
  SelectWorkspace workspace(1 << 20);
  ops::AttnIndexSelectParams valid = {.output = {.idx = idx.data(), .k = 10}, .queries = c.params()};
  valid.workspace_bytes = ops::attn_index_select_workspace_bytes(valid);
  valid.workspace = workspace.bytes.data();
  REQUIRE(valid.workspace_bytes > 0);
  REQUIRE_OK(ops::attn_index_select(valid, nullptr));
  using P = ops::AttnIndexSelectParams;
  const auto refused = [&](auto change, Code code, const char* text) {
    P p = valid;
    change(p);
    CAPTURE(text);
    const Status s = ops::attn_index_select(p, nullptr);
    REQUIRE(s.code == code);
    REQUIRE(std::string(s.what).find(std::string("attn_index_select: ") + text) != std::string::npos);
  };
  refused([](P& p) { p.queries.tokens = -1; }, Code::kInvalidArgument, "queries.tokens");
  refused([](P& p) { p.queries.max_entries = (1 << 20) + 1; }, Code::kInvalidArgument, "queries.max_entries");
  refused([](P& p) { p.queries.heads = 65; }, Code::kInvalidArgument, "queries.heads");
  refused([](P& p) { p.queries.dim = 64; }, Code::kUnsupported, "queries.dim");
  refused([](P& p) { p.queries.q = nullptr; }, Code::kInvalidArgument, "queries.q");
  refused([](P& p) { p.queries.weights = nullptr; }, Code::kInvalidArgument, "queries.weights");
  refused([](P& p) { p.queries.visible = {.ratio = 4}; }, Code::kInvalidArgument,
          "queries.visible.positions");
  refused([](P& p) { p.output.k = 4097; }, Code::kInvalidArgument, "output.k");
  refused([](P& p) { p.output.idx_stride = 9; }, Code::kInvalidArgument, "output.idx_stride");
  refused([](P& p) { p.output.idx = nullptr; }, Code::kInvalidArgument, "output.idx");
  refused([](P& p) { p.output.as_slots = true, p.output.slots = -1; }, Code::kInvalidArgument,
          "output.slots");
  refused([](P& p) { p.workspace = nullptr; }, Code::kInvalidArgument, "workspace");
  refused([](P& p) { --p.workspace_bytes; }, Code::kWorkspaceTooSmall, "workspace_bytes");
  P empty = valid;
  empty.queries.tokens = 0, empty.queries.q = nullptr, empty.output.idx = nullptr, empty.workspace_bytes = 0;
  REQUIRE_OK(ops::attn_index_select(empty, nullptr));
}
