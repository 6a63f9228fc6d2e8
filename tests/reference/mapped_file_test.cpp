#include "reference/mapped_file.hpp"

#include "reference/printable.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"

#include <sys/stat.h>

#include <cstring>
#include <string>

using namespace dsv4;
using dsv4::reference::MappedFile;
using dsv4::reference::printable;
using dsv4::reference::printable_path;

TEST_CASE("a mapped file gives the file's bytes", "[reference][mapped_file]") {
  const test::TempFolder folder;
  const auto path = folder / "x.bin";
  for (const std::size_t size : {std::size_t{1}, std::size_t{4096}, std::size_t{100003}}) {
    std::string content(size, 'a');
    for (std::size_t i = 0; i < size; ++i) content[i] = static_cast<char>(i * 131 >> 3);
    test::write_file(path, content);
    const auto file = MappedFile::open(path);
    REQUIRE(file->bytes().size() == size);
    REQUIRE(std::memcmp(file->bytes().data(), content.data(), size) == 0);
    REQUIRE(file->name() == path.native());
  }
  test::write_file(path, "");
  REQUIRE(MappedFile::open(path)->bytes().empty());
  test::write_file(path, "text");
  REQUIRE(reference::read_text(path, 4) == "text");
}

TEST_CASE("what is no readable file is named with the reason", "[reference][mapped_file]") {
  const test::TempFolder folder;
  const auto missing = folder / "missing";
  CHECK(test::input_error([&] { (void)MappedFile::open(missing); }) ==
        missing.native() + ": cannot open: No such file or directory");
  CHECK(test::input_error([&] { (void)MappedFile::open(folder.path()); }) ==
        folder.path().native() + ": is a directory, not a file");
  const auto pipe = folder / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK(test::input_error([&] { (void)MappedFile::open(pipe); }) ==
        pipe.native() + ": is not a regular file");
  const auto strange = folder / "two\nlines";
  CHECK(test::input_error([&] { (void)MappedFile::open(strange); }).find("two\\x0alines: cannot open") !=
        std::string::npos);
  test::write_file(folder / "long", "12345");
  CHECK(test::input_error([&] { (void)reference::read_text(folder / "long", 4); }) ==
        (folder / "long").native() + ": 5 bytes exceed the limit of 4");
}

TEST_CASE("printable text is one line that hides nothing", "[reference][mapped_file]") {
  CHECK(printable("layers.0.attn") == "layers.0.attn");
  CHECK(printable("a\nb\tc\x7f") == "a\\x0ab\\x09c\\x7f");
  CHECK(printable(std::string_view("a\0b", 3)) == "a\\x00b");
  CHECK(printable("gr\xc3\xb6\xc3\x9f"
                  "er \xe4\xb8\xad \xf0\x9f\x98\x80") ==
        "gr\xc3\xb6\xc3\x9f"
        "er \xe4\xb8\xad \xf0\x9f\x98\x80");
  CHECK(printable("\xc2\x85|\xe2\x80\xa8|\xe2\x80\xae") == "\\xc2\\x85|\\xe2\\x80\\xa8|\\xe2\\x80\\xae");
  CHECK(printable("\xff|\xc3") == "\\xff|\\xc3");                    // no UTF-8; cut off
  CHECK(printable("\xc3(\xed\xa0\x80") == "\\xc3(\\xed\\xa0\\x80");  // bad continuation; surrogate
  CHECK(printable(std::string(300, 'x')) == std::string(200, 'x') + "...");
}
