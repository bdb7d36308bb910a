// Loops over what must stay in registers, unrolled whatever the level of optimisation.
#pragma once

#define RNNK_UNROLL _Pragma("GCC unroll 32")
