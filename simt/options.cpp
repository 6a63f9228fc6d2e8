// Options from the environment.
#include <dsv4/simt/options.hpp>

#include <cstdlib>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace dsv4::simt {
namespace {

const char* variable(const char* name) {
  const char* text = std::getenv(name);
  return text && *text ? text : nullptr;
}

[[noreturn]] void unreadable(const char* name, const char* text, const char* allowed) {
  throw std::invalid_argument(std::string(name) + "=" + text + ": " + allowed);
}

template <class Value>
void read_choice(const char* name, Value& value, std::initializer_list<std::pair<const char*, Value>> choices,
                 const char* allowed) {
  const char* text = variable(name);
  if (!text) return;
  for (const auto& [word, v] : choices)
    if (std::string_view(text) == word) {
      value = v;
      return;
    }
  unreadable(name, text, allowed);
}

void read_number(const char* name, double low, double high, auto& value) {
  const char* text = variable(name);
  if (!text) return;
  char* end = nullptr;
  const double number = std::strtod(text, &end);
  if (*end || !(number >= low && number <= high))
    unreadable(name, text, ("a number from " + std::to_string(low) + " to " + std::to_string(high)).c_str());
  value = static_cast<std::remove_cvref_t<decltype(value)>>(number);
}

}  // namespace

Options Options::from_environment() {
  Options o;
  read_choice<Async>("DSV4_SIMT_ASYNC", o.async,
                     {{"eager", Async::kEager}, {"lazy", Async::kLazy}, {"random", Async::kRandom}},
                     "eager, lazy or random");
  read_choice<Schedule>("DSV4_SIMT_SCHEDULE", o.schedule,
                        {{"fifo", Schedule::kFifo}, {"lifo", Schedule::kLifo}, {"random", Schedule::kRandom}},
                        "fifo, lifo or random");
  read_choice<Rounding>(
      "DSV4_SIMT_ROUNDING", o.rounding,
      {{"chain", Rounding::kChain}, {"ampere", Rounding::kAmpere}, {"hopper", Rounding::kHopper}},
      "chain, ampere or hopper");
  read_number("DSV4_SIMT_SEED", 0, 0x1p53, o.seed);
  read_number("DSV4_SIMT_SPURIOUS", 0, 0.999, o.spurious_try_wait);
  read_number("DSV4_SIMT_WORKERS", 0, 1024, o.workers);
  read_number("DSV4_SIMT_RESIDENT", 1, 4096, o.resident_blocks);
  return o;
}

Options& options() {
  static Options o = Options::from_environment();
  return o;
}

}  // namespace dsv4::simt
