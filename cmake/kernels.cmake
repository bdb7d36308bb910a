# rnnk_add_kernel(NAME SOURCE [HOST KERNEL] [FLAGS ...])  compiles one kernel file with its own flags and puts NAME on the list.
#                                           HOST: the kernel whose driver it calls; without it, there is no such kernel.
# rnnk_write_lists()                        writes the two generated headers: the kernel list and the cells' includes.
set(RNNK_GENERATED ${CMAKE_CURRENT_BINARY_DIR}/generated)
set(RNNKERN_KERNELS "" CACHE STRING "Only kernels with these names, which may be regular expressions; semicolons between them; empty: all")
set(RNNK_KERNEL_NAMES "")
set(RNNK_KERNEL_OBJECTS "")

# Sets `result` to whether RNNKERN_KERNELS asks for the kernel.
function(rnnk_is_wanted name result)
  string(REPLACE ";" "|" pattern "${RNNKERN_KERNELS}")
  if(NOT RNNKERN_KERNELS OR name MATCHES "^(${pattern})$")
    set(${result} TRUE PARENT_SCOPE)
  else()
    set(${result} FALSE PARENT_SCOPE)
  endif()
endfunction()

function(rnnk_add_kernel name source)
  rnnk_is_wanted(${name} wanted)
  if(NOT wanted)
    return()
  endif()
  cmake_parse_arguments(arg "" "HOST" "FLAGS" ${ARGN})
  if(arg_HOST AND NOT arg_HOST IN_LIST RNNK_KERNEL_NAMES)
    return()
  endif()
  add_library(${name} OBJECT ${source})
  target_include_directories(${name} PRIVATE csrc csrc/include ${RNNK_GENERATED})
  # -ffp-contract=off: an a * b + c in the text must round the same in every kernel and at every optimisation level.
  # -fno-exceptions: kernels throw nothing (and GCC 12 fails to compile the tiles with them).
  # The warnings switched off are false alarms from GCC 12's own AVX-512 header and from unrolled loops.
  # -O2: as fast as -O3, whose copies of the pointwise part take half as long again to compile.
  # Under a sanitizer the level is the build's -O1, or GCC 12 takes ten times as long.
  set(level -O2)
  if(RNNKERN_SANITIZE)
    set(level "")
  endif()
  target_compile_options(${name} PRIVATE ${level} ${arg_FLAGS}
    -ffp-contract=off -fno-math-errno -fno-exceptions -Wall -Wextra
    $<$<CXX_COMPILER_ID:GNU>:-Wno-uninitialized> $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>
    $<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds>)
  set(RNNK_KERNEL_NAMES ${RNNK_KERNEL_NAMES} ${name} PARENT_SCOPE)
  set(RNNK_KERNEL_OBJECTS ${RNNK_KERNEL_OBJECTS} $<TARGET_OBJECTS:${name}> PARENT_SCOPE)
endfunction()

function(rnnk_write_lists)
  set(kernels "")
  foreach(name ${RNNK_KERNEL_NAMES})
    string(APPEND kernels "RNNK_KERNEL(${name})\n")
  endforeach()
  file(CONFIGURE OUTPUT ${RNNK_GENERATED}/core/kernels.generated.inc CONTENT "${kernels}" @ONLY)

  file(GLOB headers RELATIVE ${CMAKE_CURRENT_SOURCE_DIR}/csrc CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/csrc/cells/*.h)
  set(cells "#pragma once\n")
  foreach(header ${headers})
    string(APPEND cells "#include \"${header}\"\n")
  endforeach()
  file(CONFIGURE OUTPUT ${RNNK_GENERATED}/core/cells.generated.h CONTENT "${cells}" @ONLY)
endfunction()
