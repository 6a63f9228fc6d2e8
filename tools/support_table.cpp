// What C libraries of dsv4 support, asked of themselves, as a Markdown table: the one in README.md.
#include <dsv4/dsv4.h>

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

// Compute capabilities that a column may be about; 0 is the CPU.
constexpr std::int32_t kChips[] = {75, 80, 86, 87, 89, 90, 100, 103, 110, 120, 121, 0};

/// The queries of dsv4.h, of a library that is opened.
class Library {
 public:
  explicit Library(const char* path) : handle_(dlopen(path, RTLD_NOW | RTLD_LOCAL)) {
    if (!handle_) throw std::runtime_error(dlerror());
    find(op_count, "dsv4_op_count"), find(op_name, "dsv4_op_name"), find(op_operand, "dsv4_op_operand");
    find(format_count, "dsv4_format_count"), find(format_name, "dsv4_format_name");
    find(supports, "dsv4_supports");
  }

  decltype(&dsv4_op_count) op_count;
  decltype(&dsv4_op_name) op_name;
  decltype(&dsv4_op_operand) op_operand;
  decltype(&dsv4_format_count) format_count;
  decltype(&dsv4_format_name) format_name;
  decltype(&dsv4_supports) supports;

 private:
  template <class F>
  void find(F& f, const char* name) {
    f = reinterpret_cast<F>(dlsym(handle_, name));
    if (!f) throw std::runtime_error(dlerror());
  }
  void* handle_;
};

/// A column: for each op, the formats that activations of one type go with; and where that is so.
struct Column {
  std::int32_t dtype;
  std::vector<std::string> cells;
  std::vector<std::int32_t> chips;

  std::string title() const {
    std::string text;
    for (const std::int32_t chip : chips) {
      const std::string name = std::to_string(chip);
      text += (text.empty() ? "" : ", ") + (chip == 0 ? "CPU" : text.empty() ? "sm_" + name : name);
    }
    return std::string(dtype == DSV4_DTYPE_BF16 ? "bf16" : "fp32") + " on " + text;
  }
};

Column column_of(const Library& library, std::int32_t dtype, std::int32_t chip) {
  Column column = {dtype, {}, {chip}};
  for (std::int32_t op = 0; op < library.op_count(); ++op) {
    std::string cell;
    for (std::int32_t format = 0; format < library.format_count(); ++format)
      if (library.supports(library.op_name(op), chip, dtype, format))
        cell += (cell.empty() ? "" : ", ") + std::string(library.format_name(format));
    column.cells.push_back(cell.empty() ? "-" : cell);
  }
  return column;
}

void print_row(const std::vector<std::string>& cells) {
  std::string line = "|";
  for (const std::string& cell : cells) line += " " + cell + " |";
  std::puts(line.c_str());
}

void print_table(const std::vector<Library>& libraries) {
  std::vector<Column> columns;
  for (const std::int32_t dtype : {DSV4_DTYPE_BF16 + 0, DSV4_DTYPE_F32 + 0})
    for (const Library& library : libraries)
      for (const std::int32_t chip : kChips) {
        const Column next = column_of(library, dtype, chip);
        if (next.cells == std::vector<std::string>(next.cells.size(), "-")) continue;
        bool known = false;  // chips that support the same share a column
        for (Column& c : columns)
          if (c.dtype == dtype && c.cells == next.cells && !known) c.chips.push_back(chip), known = true;
        if (!known) columns.push_back(next);
      }
  std::vector<std::string> head = {"op", "the format of its"}, line = {"---", "---"};
  for (const Column& c : columns) head.push_back(c.title()), line.push_back("---");
  print_row(head), print_row(line);
  const Library& names = libraries.front();
  for (std::int32_t op = 0; op < names.op_count(); ++op) {
    std::vector<std::string> row = {"`" + std::string(names.op_name(op)) + "`",
                                    names.op_operand(names.op_name(op))};
    for (const Column& c : columns) row.push_back(c.cells[static_cast<std::size_t>(op)]);
    print_row(row);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || std::string(argv[1]) == "--help" || std::string(argv[1]) == "-h") {
    std::printf(
        "usage: %s LIBRARY...\n"
        "Prints which formats each op supports, by type of activations, on the architectures that each "
        "LIBRARY\n"
        "(libdsv4.so, libdsv4_simt.so, of the same version) runs on, as a Markdown table.\n",
        argv[0]);
    return argc < 2 ? 2 : 0;
  }
  try {
    std::vector<Library> libraries;
    for (int i = 1; i < argc; ++i) libraries.emplace_back(argv[i]);
    print_table(libraries);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s: %s\n", argv[0], e.what());
    return 2;
  }
}
