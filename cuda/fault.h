// The word through which kernels tell the host what went wrong in a call that has returned: written on the device, read by
// core/device.h's report_faults. 0: nothing; without kWaited: 1 + the row of a length outside [0, T].
#pragma once
#include <cstdint>

#include "cells/hd.h"

namespace rnnk {
namespace gpu {

constexpr uint64_t kWaited = uint64_t{1} << 63;
constexpr int kAnyPeer = 0xfff;

// Block `who` of a team has given up waiting for block `whom` in step `step`.
struct WaitFault {
  int who, whom;
  int64_t step;
  RNNK_HD uint64_t word() const {
    return kWaited | static_cast<uint64_t>(who & 0xfff) << 51 | static_cast<uint64_t>(whom & 0xfff) << 39 |
           (static_cast<uint64_t>(step + 1) & 0x7fffffffff);
  }
  static WaitFault from(uint64_t word) {
    return {static_cast<int>(word >> 51 & 0xfff), static_cast<int>(word >> 39 & 0xfff),
            static_cast<int64_t>(word & 0x7fffffffff) - 1};
  }
};

}  // namespace gpu
}  // namespace rnnk
