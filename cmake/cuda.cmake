# The GPU's part of the library, RNNKERN_CUDA:
#   AUTO  where nvcc and a GPU are there, for that GPU; else no CUDA
#   ON    sm_80, sm_90 and PTX of compute_90 for later GPUs, or what CMAKE_CUDA_ARCHITECTURES says, whatever is there
#   OFF   no CUDA
#   SIMT  the same kernels on the host, run by the executor of tests/cuda/simt: device 0 is that, its memory the host's. For tests.
set(RNNKERN_CUDA AUTO CACHE STRING "CUDA kernels: AUTO, ON, OFF or SIMT")
set_property(CACHE RNNKERN_CUDA PROPERTY STRINGS AUTO ON OFF SIMT)
set(rnnk_cuda ${RNNKERN_CUDA})
if(DEFINED ENV{CUDACXX})
  set(RNNK_NVCC $ENV{CUDACXX})
else()
  find_program(RNNK_NVCC nvcc HINTS $ENV{CUDA_HOME}/bin $ENV{CUDA_PATH}/bin /usr/local/cuda/bin)
endif()

if(rnnk_cuda STREQUAL "AUTO")
  find_program(RNNK_NVIDIA_SMI nvidia-smi)
  set(rnnk_cuda OFF)
  if(RNNK_NVCC AND RNNK_NVIDIA_SMI AND NOT CMAKE_CROSSCOMPILING)
    execute_process(COMMAND ${RNNK_NVIDIA_SMI} --query-gpu=compute_cap --format=csv,noheader
                    RESULT_VARIABLE rnnk_failed OUTPUT_VARIABLE rnnk_gpus ERROR_QUIET)
    if(NOT rnnk_failed EQUAL 0)  # what it then prints are no capabilities
      set(rnnk_gpus "")
    endif()
    string(REGEX MATCHALL "[0-9]+\\.[0-9]" rnnk_gpus "${rnnk_gpus}")
    list(FILTER rnnk_gpus INCLUDE REGEX "^([89]|[1-9][0-9]+)\\.")  # the kernels need 8.0
    list(TRANSFORM rnnk_gpus REPLACE "\\.([0-9])" "\\1-real" OUTPUT_VARIABLE rnnk_architectures)
    list(REMOVE_DUPLICATES rnnk_architectures)
    if(rnnk_architectures)
      set(rnnk_cuda NATIVE)
    endif()
  endif()
elseif(rnnk_cuda STREQUAL "ON" AND CMAKE_CUDA_ARCHITECTURES)
  set(rnnk_architectures ${CMAKE_CUDA_ARCHITECTURES})
elseif(rnnk_cuda STREQUAL "ON")
  set(rnnk_architectures 80-real 90)
endif()
if(NOT rnnk_cuda MATCHES "^(ON|OFF|SIMT|NATIVE)$")
  message(FATAL_ERROR "RNNKERN_CUDA: expected AUTO, ON, OFF or SIMT, got ${RNNKERN_CUDA}")
endif()
message(STATUS "rnnkern: CUDA ${rnnk_cuda} ${rnnk_architectures}")

if(rnnk_cuda MATCHES "^(ON|NATIVE)$")
  set(CMAKE_CUDA_ARCHITECTURES ${rnnk_architectures})
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
  if(NOT CMAKE_CUDA_COMPILER AND RNNK_NVCC)
    set(CMAKE_CUDA_COMPILER ${RNNK_NVCC})
  endif()
  enable_language(CUDA)
  if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.5)  # cudaGetDriverEntryPointByVersion is from there
    message(FATAL_ERROR "RNNKERN_CUDA: expected nvcc 12.5 or later, got ${CMAKE_CUDA_COMPILER_VERSION} "
                        "(${CMAKE_CUDA_COMPILER}); RNNKERN_CUDA=OFF builds without CUDA")
  endif()
  if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25.1 and older do not know that nvcc has it
    set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
  endif()
  set(CMAKE_CUDA_STANDARD 20)
  set(CMAKE_CUDA_EXTENSIONS OFF)
  set(RNNK_DEVICE_SOURCES cuda/device.cpp cuda/blas.cpp cuda/runtime.cu cuda/add.cu cuda/dropout.cu cuda/moves.cu cuda/piece.cu)
  # The runtime's functions stay this library's own: another in the process (a framework's) must neither serve nor be served.
  add_link_options(-Wl,--exclude-libs,ALL)
  link_libraries(${CMAKE_DL_LIBS})
elseif(rnnk_cuda STREQUAL "SIMT")
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    set(RNNK_WATCHED --param=tsan-distinguish-volatile=1 --param=tsan-instrument-func-entry-exit=0)
  else()
    set(RNNK_WATCHED -mllvm -tsan-distinguish-volatile=1 -mllvm -tsan-instrument-func-entry-exit=0)
  endif()
  # The executor first: of templates that kernels have, too, its own instances, which are not watched, are the ones that are linked.
  set(RNNK_DEVICE_SOURCES tests/cuda/simt/runtime.cpp tests/cuda/simt/blas.cpp tests/cuda/simt/executor.cpp
      tests/cuda/simt/fiber.cpp tests/cuda/simt/shared.cpp tests/cuda/simt/delayed.cpp tests/cuda/simt/views.cpp
      tests/cuda/simt/history.cpp tests/cuda/simt/races.cpp tests/cuda/simt/device.cpp tests/cuda/simt/meetings.cpp
      tests/cuda/simt/streams.cpp cuda/device.cpp cuda/add.cu cuda/dropout.cu cuda/moves.cu cuda/piece.cu)
  if(NOT RNNKERN_SANITIZE)
    list(PREPEND RNNK_DEVICE_SOURCES tests/cuda/simt/hooks.cpp)
  endif()
  # Each access of a kernel goes through these.
  foreach(part hooks races views)
    set_source_files_properties(tests/cuda/simt/${part}.cpp PROPERTIES COMPILE_OPTIONS -O2)
  endforeach()
endif()

# One strategy: a file with its record, and what it shares with others.
function(rnnk_add_strategy name source)
  rnnk_is_wanted(${name} wanted)
  if(rnnk_cuda STREQUAL "OFF" OR NOT wanted)
    return()
  endif()
  add_library(${name} OBJECT ${source})
  rnnk_device_target(${name})
  list(APPEND RNNK_DEVICE_SOURCES ${ARGN})
  list(REMOVE_DUPLICATES RNNK_DEVICE_SOURCES)
  set(RNNK_DEVICE_SOURCES ${RNNK_DEVICE_SOURCES} PARENT_SCOPE)
  set(RNNK_KERNEL_NAMES ${RNNK_KERNEL_NAMES} ${name} PARENT_SCOPE)
  set(RNNK_KERNEL_OBJECTS ${RNNK_KERNEL_OBJECTS} $<TARGET_OBJECTS:${name}> PARENT_SCOPE)
endfunction()

# What every target with files of cuda/ needs. Types of the cells have internal linkage (they are also in files compiled for
# other CPUs), which GCC remarks on wherever they are members; -ffp-contract is nvcc's own --fmad there.
function(rnnk_device_target target)
  target_include_directories(${target} PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} csrc csrc/include ${RNNK_GENERATED})
  target_compile_definitions(${target} PRIVATE RNNK_BUILDING)
  if(rnnk_cuda STREQUAL "SIMT")
    get_target_property(sources ${target} SOURCES)
    list(FILTER sources INCLUDE REGEX "\\.cu$")
    # What kernels access is watched (tests/cuda/simt/hooks.cpp); nothing of the sanitizers' libraries is linked.
    set(watched -xc++)
    if(NOT RNNKERN_SANITIZE)
      list(APPEND watched -fsanitize=thread,alignment -g1 ${RNNK_WATCHED})
    endif()
    set_source_files_properties(${sources} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "${watched}")
    target_include_directories(${target} PRIVATE tests/cuda)
    target_compile_definitions(${target} PRIVATE RNNK_SIMT)
    target_compile_options(${target} PRIVATE -O1 -ffp-contract=off -Wno-subobject-linkage)
  else()
    # --threads: architectures side by side. -lineinfo: for profilers and compute-sanitizer.
    target_compile_options(${target} PRIVATE
      "$<$<COMPILE_LANGUAGE:CUDA>:--threads=2;--expt-relaxed-constexpr;-lineinfo;-Xcompiler=-Wall,-Wextra,-Wno-subobject-linkage>")
  endif()
endfunction()
