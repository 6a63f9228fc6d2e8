// Catch2, version 2 (Debian 12) or 3, under one include. Test cases use what both have: TEST_CASE, SECTION,
// GENERATE, CAPTURE, REQUIRE, REQUIRE_THROWS_AS, Approx, ...
#pragma once

#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
#endif
