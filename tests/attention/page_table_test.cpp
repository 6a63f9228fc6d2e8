// Mirrors include/dsv4/attention/page_table.hpp.
#include <dsv4/attention/page_table.hpp>

#include <cstdint>
#include <vector>

#include "tests/support/catch.hpp"

using dsv4::attention::PageTable;

TEST_CASE("attention::PageTable: without a table a row is its own slot", "[attention][page_table]") {
  const PageTable plain{nullptr, 0, 0, 1, 0};
  for (const std::int64_t row : {std::int64_t{0}, std::int64_t{77}, std::int64_t{1} << 40})
    for (const std::int64_t sequence : {-1, 0, 5}) REQUIRE(plain.slot(sequence, row) == row);
  const PageTable ring{nullptr, 0, 0, 1, 128};
  REQUIRE(ring.slot(0, 127) == 127);
  REQUIRE(ring.slot(0, 128) == 0);
  REQUIRE(ring.slot(3, (std::int64_t{1} << 20) + 5) == 5);
}

TEST_CASE("attention::PageTable: a row lies in its page, and pages lie anywhere", "[attention][page_table]") {
  const std::int32_t page_rows = GENERATE(1, 2, 53, 64, 256);
  const std::vector<std::int32_t> pages = {9, 0, 4, /**/ 7, 3, 2147483647};  // 2 sequences, 3 pages each
  const PageTable table{pages.data(), 3, 2, page_rows, 0};
  for (std::int64_t sequence = 0; sequence < 2; ++sequence)
    for (std::int64_t row = 0; row < 3 * page_rows; ++row) {
      const std::int64_t page = pages[static_cast<std::size_t>(3 * sequence + row / page_rows)];
      REQUIRE(table.slot(sequence, row) == page * page_rows + row % page_rows);  // beyond 32 bits too
    }
}

TEST_CASE("attention::PageTable: what lies outside the table has no slot", "[attention][page_table]") {
  const std::vector<std::int32_t> pages = {5, -1, INT32_MIN, 6, 1, 2};
  const PageTable table{pages.data(), 3, 2, 4, 0};
  REQUIRE(table.slot(0, 3) == 23);
  REQUIRE(table.slot(0, 4) == -1);   // a negative page
  REQUIRE(table.slot(0, 11) == -1);  // another
  REQUIRE(table.slot(1, 11) == 11);
  REQUIRE(table.slot(0, 12) == -1);  // no such page; the next sequence's is not taken
  REQUIRE(table.slot(0, std::int64_t{1} << 40) == -1);
  REQUIRE(table.slot(-1, 0) == -1);
  REQUIRE(table.slot(2, 0) == -1);
}

TEST_CASE("attention::PageTable: a ring reuses its rows", "[attention][page_table]") {
  const std::vector<std::int32_t> pages = {5, 8, 2};
  const PageTable table{pages.data(), 3, 1, 4, 10};  // the last page is used by half
  for (std::int64_t row = 0; row < 10; ++row)
    for (const std::int64_t turn : {std::int64_t{1}, std::int64_t{1} << 32})
      REQUIRE(table.slot(0, row + 10 * turn) == table.slot(0, row));
  REQUIRE(table.slot(0, 9) == 2 * 4 + 1);
}
