# The requirements of a build from source. Each check ends the build with one sentence, which names the package to install; the Python
# build backend (tools/backend) prints that sentence last. Keep the first words "rnnkern needs": the backend looks for them.
include(CheckLanguage)

macro(rnnk_need_compiler)
  check_language(CXX)
  if(NOT CMAKE_CXX_COMPILER)
    if(DEFINED ENV{CXX})
      set(rnnk_cxx " (CXX is $ENV{CXX})")
    endif()
    message(FATAL_ERROR "rnnkern needs a C++20 compiler, and no working one was found${rnnk_cxx}: install one (Debian: apt install "
      "g++; Fedora: dnf install gcc-c++), or set CXX to its path.")
  endif()
  enable_language(CXX)
  rnnk_need_cxx20()
endmacro()

function(rnnk_need_cxx20)
  include(CheckCXXSourceCompiles)
  set(CMAKE_CXX_STANDARD 20)
  set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)
  if("cxx_std_20" IN_LIST CMAKE_CXX_COMPILE_FEATURES)
    check_cxx_source_compiles([[
      #include <bit>
      #include <concepts>
      template <std::integral T> T twice(T x) { return std::rotl(static_cast<unsigned>(x), 1); }
      int f() { return [count = 1]<class T>(T x) { return twice(x) + count; }(2); }
      struct Point { int x = 0, y = 0; };
      Point p{.x = 1, .y = 2};
    ]] RNNK_HAS_CXX20)
  endif()
  if(NOT RNNK_HAS_CXX20)
    message(FATAL_ERROR "rnnkern needs a compiler that knows C++20 (GCC 11, clang 14 or later), and ${CMAKE_CXX_COMPILER} "
      "(${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}) does not: install a newer one (Debian: apt install g++; "
      "Fedora: dnf install gcc-c++) and set CXX to its path.")
  endif()
endfunction()

macro(rnnk_need_python)
  find_package(Python COMPONENTS Interpreter QUIET)
  if(NOT Python_Interpreter_FOUND)
    message(FATAL_ERROR "rnnkern needs Python 3.10 or later to build its module, and there is none: install it (Debian: apt "
      "install python3-dev; Fedora: dnf install python3-devel), or build the C library alone with -DRNNKERN_PYTHON=OFF.")
  endif()
  set(rnnk_python python${Python_VERSION_MAJOR}.${Python_VERSION_MINOR})  # a failed search forgets it
  find_package(Python COMPONENTS Interpreter Development.Module)
  if(NOT Python_Development.Module_FOUND)
    message(FATAL_ERROR "rnnkern needs the headers of ${rnnk_python} (Python.h), and they are missing: install them (Debian: apt "
      "install ${rnnk_python}-dev; Fedora: dnf install ${rnnk_python}-devel, or python3-devel for the system's own Python).")
  endif()
  find_package(pybind11 3 CONFIG)
  if(NOT pybind11_FOUND)
    message(FATAL_ERROR "rnnkern needs pybind11 3 to build its Python module, and it is missing: install it with pip install "
      "pybind11, and pass -Dpybind11_DIR=$(python -m pybind11 --cmakedir).")
  endif()
endmacro()
