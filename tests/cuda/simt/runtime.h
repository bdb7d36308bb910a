// The twin of launch() in cuda/runtime.h: every thread of the grid is a fiber of the host SIMT executor, and the kernel has
// ended when this returns, unless other streams were forked from its own (streams.h).
#pragma once
#include <memory>

#include "simt/calls.h"

namespace rnnk {
namespace gpu {

// Checks what CUDA would refuse, then runs.
void launch_checked(const Launch&, simt::Grid, std::shared_ptr<const void> params);

template <class Params>
void launch(void (*kernel)(Params), const Launch& how, Params params, const char* name) {
  struct Both {
    void (*kernel)(Params);
    Params params;
  };
  simt::Grid grid{};
  grid.name = name;
  grid.body = [](const void* given) {
    const auto& both = *static_cast<const Both*>(given);
    both.kernel(both.params);
  };
  if (how.grid_x > 0 && how.grid_y > 0) launch_checked(how, grid, std::make_shared<const Both>(Both{kernel, params}));
}

}  // namespace gpu
}  // namespace rnnk
