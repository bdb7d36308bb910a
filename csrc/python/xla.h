#pragma once

namespace rnnk_py {

// The handler of xla.cpp, an XLA_FFI_Handler*.
void* xla_handler();

}  // namespace rnnk_py
