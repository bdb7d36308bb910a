# The Python module _core: one for the interpreter that builds it, or one for each folder of headers in RNNKERN_PYTHON_HEADERS.
# The latter is for cross builds (tools/wheels): every module is linked from the same objects.
set(RNNKERN_PYTHON_HEADERS "" CACHE STRING "Modules to build without an interpreter: SUFFIX=FOLDER of each Python's headers; semicolons between them")

function(rnnk_python_module target)
  target_sources(${target} PRIVATE csrc/python/binding.cpp csrc/python/arrays.cpp $<TARGET_OBJECTS:rnnkern_helpers>
                 $<TARGET_OBJECTS:rnnkern_objects> ${RNNK_KERNEL_OBJECTS})
  target_include_directories(${target} PRIVATE csrc csrc/include bench/native)
  target_link_libraries(${target} PRIVATE Threads::Threads)
  target_compile_definitions(${target} PRIVATE RNNK_BUILDING)
endfunction()

if(RNNKERN_PYTHON OR RNNKERN_PYTHON_HEADERS)  # files of the module that know no Python
  add_library(rnnkern_helpers OBJECT csrc/python/memory.cpp csrc/python/xla.cpp bench/native/probe.cpp
              csrc/ort/api.cpp csrc/ort/attributes.cpp csrc/ort/custom_ops.cpp csrc/ort/layer.cpp csrc/ort/node.cpp csrc/ort/provider.cpp)
  target_include_directories(rnnkern_helpers PRIVATE csrc csrc/include bench/native)
  target_compile_definitions(rnnkern_helpers PRIVATE RNNK_BUILDING)
endif()

if(RNNKERN_PYTHON)
  # Everything but the binding, which depends on the Python version, in one archive. bench/gpu/once.sh carries it to a GPU machine
  # and links it there with the binding for that machine's Python.
  add_library(rnnk STATIC EXCLUDE_FROM_ALL $<TARGET_OBJECTS:rnnkern_helpers> $<TARGET_OBJECTS:rnnkern_objects>
              ${RNNK_KERNEL_OBJECTS})
  rnnk_need_python()
  pybind11_add_module(_core MODULE NO_EXTRAS)  # no link-time optimisation: calls are as fast without, and a link takes seconds
  rnnk_python_module(_core)
  install(TARGETS _core LIBRARY DESTINATION rnnkern COMPONENT python)
endif()

if(RNNKERN_PYTHON_HEADERS)
  set(PYBIND11_NOPYTHON ON)
  find_package(pybind11 3 CONFIG REQUIRED)
  foreach(entry ${RNNKERN_PYTHON_HEADERS})
    string(REGEX MATCH "^([^=]+)=(.*)$" entry ${entry})
    set(suffix ${CMAKE_MATCH_1})
    set(folder ${CMAKE_MATCH_2})
    string(MAKE_C_IDENTIFIER "_core_${suffix}" target)
    add_library(${target} MODULE)
    rnnk_python_module(${target})
    target_include_directories(${target} SYSTEM PRIVATE ${folder})
    target_link_libraries(${target} PRIVATE pybind11::headers)
    if(APPLE)
      target_link_options(${target} PRIVATE -undefined dynamic_lookup)
    elseif(WIN32)
      target_link_libraries(${target} PRIVATE ${folder}/libs/python.lib)
    endif()
    set_target_properties(${target} PROPERTIES PREFIX "" OUTPUT_NAME _core SUFFIX ${suffix}
                          LIBRARY_OUTPUT_DIRECTORY ${CMAKE_CURRENT_BINARY_DIR}/modules)
  endforeach()
endif()
