#include <dsv4/dsv4.hpp>
#include <dsv4/version.hpp>

#include "tests/support/catch.hpp"

#include <fstream>
#include <iterator>
#include <string>

TEST_CASE("version.hpp carries the version of the CMake project", "[version]") {
  std::ifstream file(DSV4_TEST_DATA_DIR "/../../CMakeLists.txt");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const std::string version = std::to_string(DSV4_VERSION_MAJOR) + "." + std::to_string(DSV4_VERSION_MINOR) +
                              "." + std::to_string(DSV4_VERSION_PATCH);
  REQUIRE(text.find("VERSION " + version + "\n") != std::string::npos);
}
