// Programmatic dependent launch: a grid launched with LaunchConfig::overlap_previous may start while its
// predecessor on the stream finishes. PTX ISA, "griddepcontrol":
// https://docs.nvidia.com/cuda/parallel-thread-execution/#parallel-synchronization-and-communication-instructions-griddepcontrol
#pragma once

#include <dsv4/arch/config.cuh>

namespace dsv4::arch::inline DSV4_FLAVOUR {

/// Waits until the previous grid is complete and its memory visible. A kernel calls it before it touches what
/// the previous one wrote, or still reads. Nothing below sm_90 and on the machine, whose launches are serial.
DSV4_DEVICE void wait_for_previous_grid() {
#if !defined(DSV4_SIMT_EMULATION) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Lets the next grid start once all blocks have called this or exited. It says nothing about memory: the
/// next grid still waits for this one's end. Nothing below sm_90 and on the machine.
DSV4_DEVICE void allow_next_grid() {
#if !defined(DSV4_SIMT_EMULATION) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

}  // namespace dsv4::arch::inline DSV4_FLAVOUR
