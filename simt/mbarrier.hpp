// An initialised mbarrier, and what asynchronous copies do to one.
#pragma once

#include "simt/race.hpp"

#include <dsv4/simt/loc.hpp>

#include <cstdint>
#include <string>

namespace dsv4::simt {

struct Thread;
struct Block;

/// What the machine knows of an mbarrier beside the counts in its 8 shared bytes.
struct Mbarrier {
  Thread* waiters = nullptr;
  race::Clock accumulating, completed;  // of the current phase, and of the last one that completed
  const Thread* initialised_by = nullptr;
  race::Moment initialised;
  Loc initialised_at;
  bool fenced = false;          // by fence.mbarrier_init or fence.proxy.async since
  std::uint32_t in_flight = 0;  // copies issued that have yet to complete bytes here
  Loc copy_issued_at;           // the last of them
};

/// A copy whose bytes this mbarrier will count is being issued: checks that it is there and can be seen.
void mbarrier_copy_issued(Block& b, std::uint32_t address, const char* name, Loc loc);
/// The copy has happened: complete_tx. `issued` = what its issuer knew at issue.
void mbarrier_copy_completed(Block& b, std::uint32_t address, std::uint32_t bytes, const race::Clock& issued,
                             Loc loc);

/// The block's last thread exits: no mbarrier may expect bytes still.
void check_mbarriers_finished(const Thread& t);
/// A line for each mbarrier that somebody waits for, for deadlock reports.
std::string describe_mbarriers(const Block& b);

}  // namespace dsv4::simt
