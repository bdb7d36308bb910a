// The twin of launch() in cuda/runtime.h: every thread of the grid is a fiber of the host SIMT executor, and the kernel has
// ended when this returns. Streams do not matter.
#pragma once
#include "simt/executor.h"

namespace rnnk {
namespace gpu {

// Checks what CUDA would refuse, then runs.
void launch_checked(const Launch&, simt::Grid);

template <class Params>
void launch(void (*kernel)(Params), const Launch& how, Params params, const char* name) {
  simt::Grid grid{};
  grid.name = name;
  grid.kernel = &kernel;
  grid.params = &params;
  grid.body = [](const void* function, const void* given) {
    (*static_cast<void (*const*)(Params)>(function))(*static_cast<const Params*>(given));
  };
  if (how.grid_x > 0 && how.grid_y > 0) launch_checked(how, grid);
}

}  // namespace gpu
}  // namespace rnnk
