#include "reference/safetensors.hpp"

#include "fuzz/safetensors_entry.hpp"
#include "tests/support/catch.hpp"
#include "tests/support/files.hpp"

#include <dsv4/core/types.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

using namespace dsv4;
using dsv4::reference::Checkpoint;
using dsv4::reference::DType;
using dsv4::reference::SafetensorsFile;
using dsv4::reference::SafetensorsWriter;
using dsv4::reference::StoredTensor;
using test::safetensors;

namespace {

const std::filesystem::path kData = DSV4_TEST_DATA_DIR;

SafetensorsFile parse(const std::string& file) {
  // In the middle of an allocation of its own size: reads beyond either end are seen by the sanitizer.
  const auto copy = std::make_shared<const std::vector<char>>(file.begin(), file.end());
  return SafetensorsFile::parse(std::as_bytes(std::span(*copy)), "f.st", copy);
}

std::string error_of(const std::string& file) {
  return test::input_error([&] { (void)parse(file); });
}

// Error of a file with this header and `data_bytes` zero bytes.
std::string header_error(std::string_view header, std::size_t data_bytes = 0) {
  return error_of(safetensors(header, std::string(data_bytes, '\0')));
}

// Error of tensor 'a' with this entry.
std::string entry_error(const std::string& entry, std::size_t data_bytes = 16) {
  return header_error("{\"a\":" + entry + "}", data_bytes);
}

template <class T>
std::span<const T> view(const std::vector<T>& v) {
  return v;
}

}  // namespace

TEST_CASE("what the writer writes the reader reads", "[reference][safetensors]") {
  const std::vector<float> f = {1.5f, -0.0f, INFINITY, 1e-40f, 3.25f, 7.0f};
  const std::vector<bf16> b = {{0x3f80}, {0xc000}, {0x7fc0}};
  const std::vector<std::int64_t> l = {-1, INT64_MAX};
  const std::vector<std::int32_t> i = {INT32_MIN, 5};
  const std::vector<e4m3> q = {{0x7e}};
  SafetensorsWriter writer;
  writer.metadata("config", "{\"a\": \"quote \\\" and \n newline\"}");
  writer.add("q", {1}, view(q));
  writer.add("b", {3}, view(b));
  writer.add("empty", {0, 5}, std::span<const float>());
  writer.add("f", {2, 3}, view(f));
  writer.add("i", {1, 2, 1}, view(i));
  writer.add("l", {2}, view(l));
  writer.add("scalar", {}, std::span<const float>(f.data(), 1));
  writer.add("k\xc3\xbchn \"\n", {1}, view(q));

  const test::TempFolder folder;
  writer.write(folder / "x.safetensors");
  const auto file = SafetensorsFile::open(folder / "x.safetensors");
  REQUIRE(file.name() == (folder / "x.safetensors").native());
  REQUIRE(file.metadata().at("config") == "{\"a\": \"quote \\\" and \n newline\"}");
  REQUIRE(file.tensors().size() == 8);
  CHECK(reference::values<std::int64_t>(file.at("l")) == l);
  CHECK(reference::values<std::int32_t>(file.at("i")) == i);
  CHECK(reference::integers(file.at("i")) == std::vector<std::int64_t>{INT32_MIN, 5});
  CHECK(file.at("i").shape == std::vector<std::int64_t>{1, 2, 1});
  const auto floats = reference::floats(file.at("f"));
  CHECK(std::memcmp(floats.data(), f.data(), sizeof(float) * f.size()) == 0);
  const auto widened = reference::floats(file.at("b"));
  CHECK((widened[0] == 1.0f && widened[1] == -2.0f && std::isnan(widened[2])));
  CHECK(reference::floats(file.at("empty")).empty());
  CHECK(file.at("empty").shape == std::vector<std::int64_t>{0, 5});
  CHECK(file.at("scalar").shape.empty());
  CHECK(reference::floats(file.at("scalar")) == std::vector<float>{1.5f});
  CHECK(file.at("q").dtype == DType::kF8E4m3);
  CHECK(file.find("k\xc3\xbchn \"\n") != nullptr);
  CHECK(file.find("no") == nullptr);

  const std::string bytes = test::read_file(folder / "x.safetensors");
  const auto* const data = reinterpret_cast<const std::byte*>(bytes.data());
  const auto written = writer.bytes();
  REQUIRE(std::vector<std::byte>(data, data + bytes.size()) == written);
  CHECK(bytes[0] % 8 == 0);  // padded header
  for (const StoredTensor& t : file.tensors()) {
    const auto address = reinterpret_cast<std::uintptr_t>(t.bytes.data());
    CHECK(address % static_cast<std::uintptr_t>(reference::size_bytes(t.dtype)) == 0);
  }

  CHECK(test::input_error([&] { (void)file.at("no\n"); }) == file.name() + ": tensor 'no\\x0a' is missing");
  CHECK(test::input_error([&] { (void)reference::floats(file.at("l")); }) ==
        file.name() + ": tensor 'l': dtype is I64, expected F32 or BF16");
  CHECK(test::input_error([&] { (void)reference::values<float>(file.at("b")); }) ==
        file.name() + ": tensor 'b': dtype is BF16, expected F32");
  CHECK(test::input_error([&] { (void)reference::integers(file.at("b")); }) ==
        file.name() + ": tensor 'b': dtype is BF16, expected an integer type");
}

TEST_CASE("a file without tensors is legal", "[reference][safetensors]") {
  CHECK(parse(safetensors("{}")).tensors().empty());
  CHECK(parse(safetensors("{\"__metadata__\":{}}  ")).tensors().empty());
  const auto written = SafetensorsWriter().bytes();
  CHECK(SafetensorsFile::parse(written, "w").tensors().empty());
}

TEST_CASE("tensors at any byte offset are read", "[reference][safetensors]") {
  for (std::size_t shift = 0; shift < 8; ++shift) {
    const std::string pad(shift, 'p');
    const std::string s = std::to_string(shift);
    const double value = -1.0 / 3.0;
    const std::int64_t number = -77;
    std::string data = pad;
    data.append(reinterpret_cast<const char*>(&value), 8).append(reinterpret_cast<const char*>(&number), 8);
    const float single = 0.1f;
    data.append(reinterpret_cast<const char*>(&single), 4);
    const auto at = [&](std::size_t begin, std::size_t end) {
      return "\"data_offsets\":[" + std::to_string(shift + begin) + "," + std::to_string(shift + end) + "]}";
    };
    const auto file =
        parse(safetensors("{\"pad\":{\"dtype\":\"U8\",\"shape\":[" + s + "],\"data_offsets\":[0," + s +
                              "]},\"d\":{\"dtype\":\"F64\",\"shape\":[1]," + at(0, 8) +
                              ",\"l\":{\"dtype\":\"I64\",\"shape\":[1]," + at(8, 16) +
                              ",\"f\":{\"dtype\":\"F32\",\"shape\":[]," + at(16, 20) + "}",
                          data));
    CHECK(reference::values<double>(file.at("d")) == std::vector<double>{value});
    CHECK(reference::integers(file.at("l")) == std::vector<std::int64_t>{-77});
    CHECK(reference::floats(file.at("f")) == std::vector<float>{0.1f});
  }
}

TEST_CASE("every dtype has its name and size", "[reference][safetensors]") {
  const std::vector<std::pair<std::string, int>> known = {
      {"F64", 8},  {"F32", 4},     {"F16", 2},     {"BF16", 2},   {"I64", 8}, {"I32", 4},
      {"I16", 2},  {"I8", 1},      {"U64", 8},     {"U32", 4},    {"U16", 2}, {"U8", 1},
      {"BOOL", 1}, {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"F8_E8M0", 1}};
  for (const auto& [name, bytes] : known) {
    CAPTURE(name);
    const std::string n = std::to_string(3 * bytes);
    const auto file =
        parse(safetensors("{\"a\":{\"dtype\":\"" + name + "\",\"shape\":[3],\"data_offsets\":[0," + n + "]}}",
                          std::string(3 * static_cast<std::size_t>(bytes), 'x')));
    CHECK(name_of(file.at("a").dtype) == name);
    CHECK(size_bytes(file.at("a").dtype) == bytes);
    CHECK(file.at("a").count() == 3);
  }
}

TEST_CASE("malformed containers are refused in one line", "[reference][safetensors]") {
  CHECK(error_of("") == "f.st: 0 bytes are too few for the 8-byte header length");
  CHECK(error_of("1234567") == "f.st: 7 bytes are too few for the 8-byte header length");
  CHECK(error_of(safetensors("{}").substr(0, 9)) ==
        "f.st: header length 2 reaches beyond the 1 bytes that follow it (truncated?)");
  CHECK(error_of(std::string(16, '\xff')) ==
        "f.st: header length 18446744073709551615 reaches beyond the 8 bytes that follow it (truncated?)");
  CHECK(error_of(safetensors(std::string(100'000'001, ' '))) ==
        "f.st: header length 100000001 exceeds the limit of 100000000");
  CHECK(error_of("version https://git-lfs.github.com/spec/v1\n") ==
        "f.st: is a Git LFS pointer, not the file it stands for");

  const auto starts = [](const std::string& got, const std::string& want) {
    CAPTURE(got);
    CHECK(got.substr(0, want.size()) == want);
  };
  starts(header_error(""), "f.st: header: invalid JSON: parse error at line 1, column 1");
  starts(header_error("{\"a\":"), "f.st: header: invalid JSON: parse error at line 1, column 6");
  starts(header_error("{} x"), "f.st: header: invalid JSON: parse error");
  starts(header_error("{\"a\xff\":{}}"), "f.st: header: invalid JSON: parse error");      // not UTF-8
  starts(header_error("{\"a\xc0\xaf\":{}}"), "f.st: header: invalid JSON: parse error");  // overlong
  starts(header_error("{\"\\ud800\":{}}"), "f.st: header: invalid JSON: parse error");    // lone surrogate
  starts(header_error("{\"a\n\":{}}"), "f.st: header: invalid JSON: parse error");
  CHECK(header_error("[]") == "f.st: header: must be a JSON object, got []");
  CHECK(header_error("3") == "f.st: header: must be a JSON object, got 3");
  CHECK(header_error("{\"a\":1,\"b\":2,\"a\":1}") == "f.st: header: duplicate key 'a'");
  CHECK(header_error("{\"a\\n\":1,\"a\\u000a\":1}") == "f.st: header: duplicate key 'a\\x0a'");
  CHECK(header_error("{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\"}}") ==
        "f.st: header: duplicate key 'dtype'");
  CHECK(header_error("{\"__metadata__\":{},\"__metadata__\":{}}") ==
        "f.st: header: duplicate key '__metadata__'");
  CHECK(header_error(std::string(1'000'000, '[')) == "f.st: header: JSON nested deeper than 16 levels");
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  CHECK(header_error(objects) == "f.st: header: JSON nested deeper than 16 levels");
  CHECK(header_error("{\"__metadata__\":3}") == "f.st: __metadata__ must be an object, got 3");
  CHECK(header_error("{\"__metadata__\":{\"k\":3}}") == "f.st: __metadata__ 'k' must be a string, got 3");
  CHECK(header_error("{\"__metadata__\":{\"k\":null}}") ==
        "f.st: __metadata__ 'k' must be a string, got null");
  CHECK(header_error("{}", 5) == "f.st: 5 bytes of data, but the tensors end at 0");
}

TEST_CASE("malformed tensor entries are refused in one line", "[reference][safetensors]") {
  const std::string at = "f.st: tensor 'a': ";
  const auto with = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "{\"dtype\":" + dtype + ",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
  };
  CHECK(entry_error("3") == at + "its header entry must be an object, got 3");
  CHECK(entry_error("{}") == at + "'dtype' is missing from its header entry");
  CHECK(entry_error("{\"dtype\":\"F32\"}") == at + "'shape' is missing from its header entry");
  CHECK(entry_error("{\"dtype\":\"F32\",\"shape\":[4]}") ==
        at + "'data_offsets' is missing from its header entry");
  CHECK(entry_error(with("\"F33\"", "[4]", "[0,16]")) == at + "unknown dtype \"F33\"");
  CHECK(entry_error(with("\"f32\"", "[4]", "[0,16]")) == at + "unknown dtype \"f32\"");
  CHECK(entry_error(with("7", "[4]", "[0,16]")) == at + "dtype must be a string, got 7");
  CHECK(entry_error(with("\"F32\"", "4", "[0,16]")) == at + "shape must be an array, got 4");
  CHECK(entry_error(with("\"F32\"", "[-4]", "[0,16]")) == at + "shape [-4] must hold integers in [0, 2^63)");
  CHECK(entry_error(with("\"F32\"", "[4.0]", "[0,16]")) ==
        at + "shape [4.0] must hold integers in [0, 2^63)");
  CHECK(entry_error(with("\"F32\"", "[true]", "[0,16]")) ==
        at + "shape [true] must hold integers in [0, 2^63)");
  CHECK(entry_error(with("\"F32\"", "[9223372036854775808]", "[0,16]")) ==
        at + "shape [9223372036854775808] must hold integers in [0, 2^63)");
  CHECK(
      entry_error(with("\"F32\"", "[1e400]", "[0,16]")).find("f.st: header: invalid JSON: number overflow") ==
      0);
  CHECK(entry_error(with("\"F32\"", "[4294967296,4294967296]", "[0,16]")) ==
        at + "F32 [4294967296, 4294967296] needs more than 2^63 - 1 bytes");
  CHECK(entry_error(with("\"F32\"", "[2305843009213693952]", "[0,0]")) ==  // 2^61 * 4 wraps to 2^63
        at + "F32 [2305843009213693952] needs more than 2^63 - 1 bytes");
  CHECK(entry_error(with("\"F32\"", "[0,4294967296,4294967296]", "[0,0]"), 0) ==
        at + "F32 [0, 4294967296, 4294967296] needs more than 2^63 - 1 bytes");
  std::string ones = "[1";
  for (int i = 0; i < 32; ++i) ones += ",1";
  CHECK(entry_error(with("\"U8\"", ones + "]", "[0,1]")) == at + "shape has 33 dimensions, the limit is 32");
  for (const char* offsets : {"3", "[0]", "[0,8,16]", "[-1,15]", "[0.0,16.0]", "[\"0\",\"16\"]", "null"}) {
    CHECK(entry_error(with("\"F32\"", "[4]", offsets)) ==
          at + "data_offsets must be two non-negative integers, got " + offsets);
  }
  CHECK(entry_error(with("\"F32\"", "[4]", "[16,0]")) == at + "data_offsets [16, 0] end before they begin");
  CHECK(entry_error(with("\"F32\"", "[4]", "[0,17]")) ==
        at + "data_offsets [0, 17] reach beyond the 16 bytes of data in the file (truncated?)");
  CHECK(entry_error(with("\"F32\"", "[4]", "[18446744073709551600,18446744073709551615]")) ==
        at + "data_offsets [18446744073709551600, 18446744073709551615] reach beyond the 16 bytes of data in "
             "the "
             "file (truncated?)");
  CHECK(entry_error(with("\"F32\"", "[3]", "[0,16]")) ==
        at + "data_offsets [0, 16] hold 16 bytes, F32 [3] needs 12");
  CHECK(entry_error(with("\"F64\"", "[]", "[0,16]")) ==
        at + "data_offsets [0, 16] hold 16 bytes, F64 [] needs 8");
  CHECK(entry_error(with("\"F32\"", "[3]", "[4,16]")) ==
        at + "its data begins at 4, leaving a hole of 4 bytes before it");
  CHECK(entry_error(with("\"F32\"", "[3]", "[0,12]")) == "f.st: 16 bytes of data, but the tensors end at 12");

  const auto two = [&](const std::string& first, const std::string& second) {
    return header_error(
        "{\"a\":" + with("\"F32\"", "[2]", first) + ",\"b\":" + with("\"F32\"", "[2]", second) + "}", 16);
  };
  CHECK(two("[0,8]", "[4,12]") == "f.st: tensor 'b': its data begins at 4, inside tensor 'a' [0, 8]");
  CHECK(two("[8,16]", "[4,12]") ==
        "f.st: tensor 'b': its data begins at 4, leaving a hole of 4 bytes before it");
  CHECK(two("[0,8]", "[0,8]") == "f.st: tensor 'b': its data begins at 0, inside tensor 'a' [0, 8]");
  CHECK(header_error(
            "{\"a\":" + with("\"F32\"", "[4]", "[0,16]") + ",\"z\":" + with("\"F32\"", "[0]", "[8,8]") + "}",
            16) == "f.st: tensor 'z': its data begins at 8, inside tensor 'a' [0, 16]");
  // Control characters and very long names stay out of the message.
  CHECK(header_error("{\"a\\u0000\\r\\n\\u2028\":3}") ==
        "f.st: tensor 'a\\x00\\x0d\\x0a\\xe2\\x80\\xa8': its header entry must be an object, got 3");
  CHECK(header_error("{\"" + std::string(5000, 'n') + "\":3}").size() < 300);
  CHECK(header_error("{\"a\":\"" + std::string(5000, 'n') + "\"}").size() < 300);
}

TEST_CASE("every truncation and every flipped byte of a file is refused or harmless",
          "[reference][safetensors]") {
  SafetensorsWriter writer;
  writer.metadata("k", "v");
  const std::vector<float> f = {1, 2, 3};
  writer.add("first", {3}, view(f));
  writer.add("second", {1, 1}, std::span<const float>(f.data(), 1));
  const auto bytes = writer.bytes();
  const std::string file(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  for (std::size_t n = 0; n < file.size(); ++n) (void)error_of(file.substr(0, n));
  (void)error_of(file + 'x');
  for (std::size_t i = 0; i < file.size(); ++i)
    for (const int flip : {1, 2, 4, 8, 16, 32, 64, 128, 255}) {
      std::string broken = file;
      broken[i] = static_cast<char>(broken[i] ^ flip);
      dsv4_fuzz_safetensors(reinterpret_cast<const std::uint8_t*>(broken.data()), broken.size());
    }
}

TEST_CASE("a file that cannot be opened is named", "[reference][safetensors]") {
  const test::TempFolder folder;
  CHECK(test::input_error([&] { (void)SafetensorsFile::open(folder / "no.safetensors"); }) ==
        (folder / "no.safetensors").native() + ": cannot open: No such file or directory");
  CHECK(test::input_error([&] { (void)SafetensorsFile::open(folder.path()); }) ==
        folder.path().native() + ": is a directory, not a file");
  test::write_file(folder / "empty.safetensors", "");
  CHECK(test::input_error([&] { (void)SafetensorsFile::open(folder / "empty.safetensors"); }) ==
        (folder / "empty.safetensors").native() + ": 0 bytes are too few for the 8-byte header length");
}

TEST_CASE("the writer refuses what cannot be a file", "[reference][safetensors]") {
  SafetensorsWriter writer;
  const std::vector<float> f = {1, 2};
  writer.add("a", {2}, view(f));
  CHECK(test::input_error([&] { writer.add("a", {2}, view(f)); }) == "writer: tensor 'a': added twice");
  CHECK(test::input_error([&] { writer.add("b", {3}, view(f)); }) ==
        "writer: tensor 'b': 8 bytes do not fit F32 [3]");
  CHECK(test::input_error([&] { writer.add("b", {-2}, view(f)); }) ==
        "writer: tensor 'b': negative dimension in [-2]");
  CHECK(test::input_error([&] { writer.add("__metadata__", {2}, view(f)); }) ==
        "writer: tensor '__metadata__': the name is reserved");
  CHECK(test::input_error([&] {
          writer.add("b", {INT64_MAX, INT64_MAX}, view(f));
        }) == "writer: tensor 'b': 8 bytes do not fit F32 [9223372036854775807, 9223372036854775807]");
  writer.add("\xff", {2}, view(f));
  CHECK(test::input_error([&] { (void)writer.bytes(); }) ==
        "writer: a tensor's name or a metadata text is not valid UTF-8");
}

TEST_CASE("writing replaces a file whole or leaves it alone", "[reference][safetensors]") {
  const test::TempFolder folder;
  const auto entries = [&] {
    std::vector<std::string> names;
    for (const auto& e : std::filesystem::directory_iterator(folder.path()))
      names.push_back(e.path().filename());
    std::sort(names.begin(), names.end());
    return names;
  };
  const auto path = folder / "x.safetensors";
  test::write_file(path, "old");
  SafetensorsWriter bad;
  bad.metadata("k", "\xff");
  (void)test::input_error([&] { bad.write(path); });
  CHECK(test::read_file(path) == "old");

  SafetensorsWriter good;
  good.add("a", {1}, std::span<const float>(std::array{1.0f}));
  const auto kept = SafetensorsFile::open((good.write(path), path));
  CHECK(kept.tensors().size() == 1);
  CHECK(entries() == std::vector<std::string>{"x.safetensors"});

  std::filesystem::create_directory(folder / "folder");
  CHECK(test::input_error([&] { good.write(folder / "folder"); }) ==
        (folder / "folder").native() + ": cannot replace: Is a directory");
  CHECK(test::input_error([&] { good.write(folder / "no" / "x"); }) ==
        (folder / "no" / "x").native() + ": cannot create: No such file or directory");
  CHECK(entries() == std::vector<std::string>{"folder", "x.safetensors"});
  // A mapping of the replaced file stays whole.
  SafetensorsWriter().write(path);
  CHECK(reference::floats(kept.at("a")) == std::vector<float>{1.0f});
}

namespace {

void write_shard(const std::filesystem::path& path, std::initializer_list<const char*> names,
                 const std::string& config = "") {
  SafetensorsWriter writer;
  if (!config.empty()) writer.metadata("config", config);
  for (const char* name : names) {
    const std::vector<float> value = {static_cast<float>(name[0])};
    writer.add(name, {1}, view(value));
  }
  writer.write(path);
}

std::string checkpoint_error(const std::filesystem::path& path) {
  return test::input_error([&] { (void)Checkpoint::open(path); });
}

}  // namespace

TEST_CASE("a checkpoint is a file, an index or a folder", "[reference][safetensors]") {
  const test::TempFolder folder;
  const auto& root = folder.path();
  write_shard(folder / "s1.safetensors", {"a", "b"}, "c1");
  write_shard(folder / "s2.safetensors", {"c"}, "c1");

  SECTION("a folder without an index holds all its files") {
    const auto checkpoint = Checkpoint::open(root);
    REQUIRE(checkpoint.files().size() == 2);
    REQUIRE(checkpoint.tensors().size() == 3);
    CHECK(reference::floats(*checkpoint.find("c")) == std::vector<float>{'c'});
    CHECK(*checkpoint.find("c")->file == (root / "s2.safetensors").native());
    CHECK(checkpoint.find("d") == nullptr);
    CHECK(*checkpoint.metadata("config") == "c1");
    CHECK(checkpoint.metadata("none") == nullptr);
    CHECK(checkpoint.folder() == root);
  }
  SECTION("one file") {
    const auto checkpoint = Checkpoint::open(root / "s1.safetensors");
    CHECK(checkpoint.tensors().size() == 2);
    CHECK(checkpoint.folder() == root);
  }
  SECTION("an index says which files belong, in subfolders too, and the usual name comes first") {
    std::filesystem::create_directory(folder / "sub");
    write_shard(folder / "sub" / "s3.safetensors", {"d"});
    test::write_file(
        folder / "model.safetensors.index.json",
        "{\"metadata\":{},\"weight_map\":{\"a\":\"s1.safetensors\",\"d\":\"sub/s3.safetensors\"}}");
    test::write_file(folder / "other.index.json", "nonsense");
    for (const auto& path : {root, folder / "model.safetensors.index.json"}) {
      const auto checkpoint = Checkpoint::open(path);
      CHECK(checkpoint.files().size() == 2);
      CHECK(checkpoint.find("b") != nullptr);  // in a shard, if not in the index
      CHECK(checkpoint.find("c") == nullptr);
      CHECK(checkpoint.find("d") != nullptr);
    }
  }
  SECTION("copies keep the files mapped") {
    const StoredTensor* tensor = nullptr;
    const Checkpoint copy = [&] {
      const auto checkpoint = Checkpoint::open(root);
      tensor = checkpoint.find("a");
      return checkpoint;
    }();
    CHECK(copy.find("a") == tensor);
    CHECK(reference::floats(*tensor) == std::vector<float>{'a'});
  }
}

TEST_CASE("broken checkpoints are refused in one line", "[reference][safetensors]") {
  const test::TempFolder folder;
  const std::string root = folder.path().native();
  CHECK(checkpoint_error(folder.path()) == root + ": no .safetensors file in the folder");
  CHECK(checkpoint_error(folder / "no") == root + "/no: cannot open: No such file or directory");

  write_shard(folder / "s1.safetensors", {"a"}, "c1");
  write_shard(folder / "s2.safetensors", {"a"}, "c2");
  CHECK(checkpoint_error(folder.path()) ==
        root + "/s2.safetensors: tensor 'a': is in " + root + "/s1.safetensors too");
  write_shard(folder / "s2.safetensors", {"b"}, "c2");
  CHECK(test::input_error([&] { (void)Checkpoint::open(folder.path()).metadata("config"); }) ==
        root + "/s2.safetensors: __metadata__ 'config' differs from that of " + root + "/s1.safetensors");
  test::write_file(folder / "s3.safetensors", "short");
  CHECK(checkpoint_error(folder.path()) ==
        root + "/s3.safetensors: 5 bytes are too few for the 8-byte header length");
  std::filesystem::remove(folder / "s3.safetensors");

  const auto index = folder / "x.index.json";
  const auto index_error = [&](const std::string& text) {
    test::write_file(index, text);
    const std::string error = checkpoint_error(folder.path());
    CHECK(checkpoint_error(index) == error);
    REQUIRE(error.substr(0, index.native().size() + 2) == index.native() + ": ");
    return error.substr(index.native().size() + 2);
  };
  CHECK(index_error("{}") == "must be a JSON object with an object 'weight_map'");
  CHECK(index_error("[]") == "must be a JSON object with an object 'weight_map'");
  CHECK(index_error("{\"weight_map\":[]}") == "must be a JSON object with an object 'weight_map'");
  CHECK(index_error("{\"weight_map\":{}}") == "'weight_map' names no tensor");
  CHECK(index_error("{\"weight_map\":{\"a\":1}}") == "tensor 'a': shard must be a string, got 1");
  CHECK(index_error("{\"weight_map\":{\"a\":\"s1.safetensors\",\"a\":\"s2.safetensors\"}}") ==
        "duplicate key 'a'");
  CHECK(index_error("{\"weight_map\":{\"a\":\"s9.safetensors\"}}") ==
        "tensor 'a': shard 's9.safetensors' does not exist");
  CHECK(index_error("{\"weight_map\":{\"a\":\"s2.safetensors\"}}") ==
        "tensor 'a' is not in its shard 's2.safetensors'");
  for (const char* shard :
       {"", "..", "../s1.safetensors", "sub/../../s1.safetensors", "/etc/passwd", "s1\\u0000.safetensors"}) {
    CAPTURE(shard);
    CHECK(index_error("{\"weight_map\":{\"a\":\"" + std::string(shard) + "\"}}")
              .find("is not a file inside the folder") != std::string::npos);
  }
  CHECK(index_error("").find("invalid JSON: ") == 0);
  CHECK(index_error(std::string(100'000, '[')) == "JSON nested deeper than 16 levels");
  test::write_file(folder / "y.index.json", "{}");
  CHECK(checkpoint_error(folder.path()) ==
        root + ": 2 index files ('x.index.json', 'y.index.json', ...): name the one to use");
}

TEST_CASE("the recordings of the repository are read", "[reference][safetensors]") {
  const auto file = SafetensorsFile::open(kData / "tiny-exact.recording.safetensors");
  CHECK(file.tensors().size() == 2407);
  CHECK(reference::integers(file.at("call.000.start_pos")) == std::vector<std::int64_t>{0});
  CHECK(reference::integers(file.at("call.000.tokens")).size() == 140);
  CHECK(file.at("call.000.logits").shape == std::vector<std::int64_t>{512});
  CHECK(file.metadata().contains("config"));
  const auto rope = SafetensorsFile::open(kData / "rope.safetensors");
  CHECK(rope.tensors().size() == 5);
}

TEST_CASE("the fuzzer's corpus passes", "[reference][safetensors][corpus]") {
  const auto corpus = kData / ".." / ".." / "fuzz" / "corpus" / "safetensors";
  REQUIRE(std::filesystem::is_directory(corpus));
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(corpus)) {
    CAPTURE(entry.path());
    const std::string bytes = test::read_file(entry.path());
    // In an allocation of exactly its size, for the sanitizer.
    const std::vector<std::uint8_t> copy(bytes.begin(), bytes.end());
    REQUIRE_NOTHROW(dsv4_fuzz_safetensors(copy.data(), copy.size()));
    ++files;
  }
  CHECK(files >= 20);
}
