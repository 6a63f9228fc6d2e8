// Memory of this process as the kernel counts it.
#pragma once

#include <cstdint>

namespace dsv4::bench {

/// Resident bytes now, mapped files included (VmRSS); 0 where the system does not say.
std::int64_t resident_bytes();

/// Most resident bytes since the process began, or since the last reset_peak (VmHWM).
std::int64_t peak_bytes();

/// Lets the peak begin anew at what is resident now, after handing freed memory back to the system. False
/// where the system cannot; peak_bytes() then stays that of the whole process.
bool reset_peak();

}  // namespace dsv4::bench
