#pragma once
#include "rnnkern/rnnkern.h"

namespace rnnk {

// Checked arguments; see rnnk_dropout.
void dropout(const rnnk_dropout_args& args);

}  // namespace rnnk
