// What the C library says of itself, and the sizes it gives.
#include <dsv4/dsv4.h>
#include <dsv4/ops/attn_compress.hpp>
#include <dsv4/ops/attn_proj.hpp>
#include <dsv4/ops/moe_experts.hpp>
#include <dsv4/ops/moe_fused.hpp>
#include <dsv4/ops/moe_route.hpp>
#include <dsv4/ops/nan_guard.hpp>
#include <dsv4/version.hpp>

#include "tests/c_api/op_rows.hpp"
#include "tests/support/catch.hpp"

#include <string>

using namespace dsv4;

TEST_CASE("the library's version, ABI and backend", "[c_api]") {
  REQUIRE(dsv4_version() == std::to_string(DSV4_VERSION_MAJOR) + "." + std::to_string(DSV4_VERSION_MINOR) +
                                "." + std::to_string(DSV4_VERSION_PATCH));
  REQUIRE(dsv4_abi_version() == DSV4_ABI_VERSION);
  REQUIRE(dsv4_backend() == std::string("simt"));
}

TEST_CASE("names of ops and formats", "[c_api]") {
  REQUIRE(dsv4_op_count() == static_cast<int>(test::c_ops().size()));
  for (std::int32_t i = 0; i < dsv4_op_count(); ++i) {
    REQUIRE(dsv4_op_name(i) == std::string(test::c_ops()[static_cast<std::size_t>(i)].name));
    REQUIRE(dsv4_op_operand(dsv4_op_name(i)) != nullptr);
  }
  REQUIRE(dsv4_op_name(-1) == nullptr);
  REQUIRE(dsv4_op_name(dsv4_op_count()) == nullptr);
  REQUIRE(dsv4_op_operand("no_such_op") == nullptr);
  REQUIRE(dsv4_op_operand(nullptr) == nullptr);
  REQUIRE(dsv4_format_count() == 7);
  REQUIRE(dsv4_format_name(DSV4_FORMAT_KV584) == std::string("kv584"));
  REQUIRE(dsv4_format_name(-1) == nullptr);
  REQUIRE(dsv4_format_name(7) == nullptr);
}

TEST_CASE("the architecture of the library on the CPU is 0", "[c_api]") {
  REQUIRE(dsv4_arch_count() == 1);
  REQUIRE(dsv4_arch(0) == 0);
  REQUIRE(dsv4_arch(1) == -1);
  REQUIRE(dsv4_arch(-1) == -1);
}

TEST_CASE("bytes of a page are the least that ops take", "[c_api][sizes]") {
  // By hand: entries of 584, 68 and 132 bytes, 4 of them scales of an index key, in units of 16.
  REQUIRE(dsv4_cache_page_bytes(DSV4_CACHE_KV584, 64, false) == 37376);
  REQUIRE(dsv4_cache_page_bytes(DSV4_CACHE_KV584, 1, false) == 592);
  REQUIRE(dsv4_cache_page_bytes(DSV4_CACHE_INDEX_FP4, 3, false) == 208);
  REQUIRE(dsv4_cache_page_bytes(DSV4_CACHE_INDEX_FP8, 1, false) == 144);
  REQUIRE(dsv4_cache_page_bytes(DSV4_CACHE_INDEX_FP4, 3, true) == 192);
  REQUIRE(dsv4_cache_page_bytes(DSV4_CACHE_INDEX_FP8, 64, true) == 8192);
  REQUIRE(dsv4_cache_scales_bytes(DSV4_CACHE_INDEX_FP4, 3) == 12);
  REQUIRE(dsv4_cache_scales_bytes(DSV4_CACHE_INDEX_FP8, 64) == 256);
  for (const std::int32_t format : {DSV4_CACHE_ROWS + 0, 4, -1}) {
    REQUIRE(dsv4_cache_page_bytes(format, 64, false) == 0);
    REQUIRE(dsv4_cache_scales_bytes(format, 64) == 0);
  }
  REQUIRE(dsv4_cache_page_bytes(DSV4_CACHE_KV584, 64, true) == 0);
  REQUIRE(dsv4_cache_scales_bytes(DSV4_CACHE_KV584, 64) == 0);
  for (const std::int32_t rows : {0, -1}) {
    REQUIRE(dsv4_cache_page_bytes(DSV4_CACHE_KV584, rows, false) == 0);
    REQUIRE(dsv4_cache_scales_bytes(DSV4_CACHE_INDEX_FP8, rows) == 0);
  }
  // An op takes a page of so many bytes, and none of fewer.
  for (const std::int32_t rows : {1, 2, 3, 64}) {
    const auto least = static_cast<std::int64_t>(dsv4_cache_page_bytes(DSV4_CACHE_KV584, rows, false));
    ops::AttnKvProjParams p{
        .window = {.format = ops::CacheFormat::kKv584, .slots = 8, .stride = least, .page_rows = rows},
        .tokens = 0,
        .head_dim = 512,
        .rope_dim = 64};
    alignas(16) static unsigned char page[16];
    p.window.data = page;
    REQUIRE(ops::attn_kv_proj(p, nullptr).ok());
    p.window.stride = least - 16;
    REQUIRE(ops::attn_kv_proj(p, nullptr).limit == least);
  }
}

TEST_CASE("other sizes are those of the C++ functions, and 0 for what no op takes", "[c_api][sizes]") {
  for (const std::int32_t ratio : {4, 128, 5})
    for (const std::int32_t dim : {512, 128, 64})
      for (const std::int32_t rollback : {0, 16, 1024, 1025, -1})
        REQUIRE(dsv4_attn_compress_state_bytes(ratio, dim, rollback) ==
                ops::attn_compress_state_bytes(ratio, dim, rollback));
  REQUIRE(dsv4_attn_compress_state_bytes(4, 512, 16) == 188416);
  for (const std::int64_t tokens : {0, 1, 9, 300}) {
    REQUIRE(dsv4_moe_tile_rows(tokens, 6, 256) == ops::moe_tile_rows(tokens, 6, 256));
    REQUIRE(dsv4_moe_max_tiles(tokens, 6, 256, 32) == ops::moe_max_tiles(tokens, 6, 256, 32));
  }
  REQUIRE(dsv4_moe_max_tiles(1, 6, 256, 0) == 0);
  REQUIRE(dsv4_moe_max_tiles(INT64_MAX, 6, 256, 8) == 0);
  REQUIRE(dsv4_moe_max_tiles(1, 0, 256, 8) == 0);
  REQUIRE(dsv4_moe_tile_rows(-1, 6, 256) == 0);
  REQUIRE(dsv4_moe_tile_rows(INT64_MAX, 6, 256) == 0);
  REQUIRE(dsv4_moe_tile_rows(1, 6, 0) == 0);
  REQUIRE(dsv4_moe_fused_max_tokens() == ops::kMoeFusedMaxTokens);
  REQUIRE(dsv4_moe_fused_good_tokens() == ops::kMoeFusedGoodTokens);
}

TEST_CASE("the NaN guard through C is that of the library", "[c_api][nan_guard]") {
  dsv4_nan_guard_record record = {};
  const Status cpp = ops::set_nan_guard(nullptr);
  REQUIRE(dsv4_set_nan_guard(&record) == static_cast<int>(cpp.code));
  if (!cpp.ok()) {
    REQUIRE(std::string(dsv4_last_error()).rfind("set_nan_guard: ", 0) == 0);
    return;
  }
  const std::uint16_t x[8] = {0x7fc0, 0, 0, 0, 0, 0, 0, 0};
  std::uint16_t out[8];
  dsv4_rms_norm_params p;
  dsv4_rms_norm_params_init(&p);
  p.x = x, p.out = out, p.rows = 1, p.n = 8;
  REQUIRE(dsv4_rms_norm(&p, nullptr) == DSV4_OK);
  REQUIRE(record.op == std::string("rms_norm"));
  REQUIRE(dsv4_set_nan_guard(nullptr) == DSV4_OK);
}
