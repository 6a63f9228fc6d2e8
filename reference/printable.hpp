// Names that come out of files, made fit for one line of a message.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace dsv4::reference {

/// Copy of `text` that prints on one line and hides nothing: control characters, line separators,
/// direction marks and bytes that are no UTF-8 become \xNN, whole other characters stay.
///   max_bytes  longer results are cut there and end in "..."
inline std::string printable(std::string_view text, std::size_t max_bytes = 200) {
  const auto byte = [&](std::size_t i) { return static_cast<std::uint8_t>(text[i]); };
  std::string out;
  for (std::size_t i = 0; i < text.size();) {
    if (out.size() >= max_bytes) return out + "...";
    const std::uint8_t lead = byte(i);
    const std::size_t length = lead < 0x80       ? 1
                               : lead >> 5 == 6  ? 2
                               : lead >> 4 == 14 ? 3
                               : lead >> 3 == 30 ? 4
                                                 : 0;
    std::uint32_t code = lead & (length == 1 ? 0x7fu : length == 2 ? 0x1fu : length == 3 ? 0x0fu : 0x07u);
    bool whole = length != 0 && i + length <= text.size();
    for (std::size_t k = 1; whole && k < length; ++k) {
      whole = byte(i + k) >> 6 == 2;
      code = code << 6 | (byte(i + k) & 0x3fu);
    }
    const bool control = code < 0x20 || (code >= 0x7f && code < 0xa0);
    const bool invisible = (code >= 0x200b && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) ||
                           (code >= 0x2060 && code <= 0x206f) || (code >= 0xd800 && code <= 0xdfff) ||
                           code == 0xfeff || code > 0x10ffff;
    if (whole && !control && !invisible) {
      out.append(text, i, length);
    } else {
      for (std::size_t k = 0; k < (whole ? length : 1); ++k) {
        constexpr char kHex[] = "0123456789abcdef";
        out += {'\\', 'x', kHex[byte(i + k) >> 4], kHex[byte(i + k) & 15]};
      }
    }
    i += whole ? length : 1;
  }
  return out;
}

}  // namespace dsv4::reference
