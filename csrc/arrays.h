// Python arrays as rnnk_tensor views: NumPy's own arrays directly (bfloat16 as ml_dtypes.bfloat16), all others by DLPack.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "rnnkern/rnnkern.h"

namespace rnnk_py {

namespace py = pybind11;

// A view that keeps what it looks at alive.
struct ArrayView {
  rnnk_tensor tensor{};
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;  // elements
  bool writable = false;
  py::object owner;
};

// TypeError / ValueError naming the argument. None is the caller's business.
ArrayView view(const py::handle& array, const char* name);

// The same with a check of the shape (-1: any), and of writability.
ArrayView view(const py::handle& array, const char* name, std::initializer_list<int64_t> shape, bool write);

// Whether an array is a plain matrix [rows, columns] (or, of one row, [columns]): NumPy's own, contiguous, aligned, native,
// of a dtype of ours and writable where asked. Allocates nothing; says no rather than why.
bool plain_rows(const py::handle& array, int64_t rows, int64_t columns, bool write, rnnk_tensor& to);

int dtype_from_name(const std::string& name);  // TypeError when unknown
py::dtype numpy_dtype(int dtype);

// What is viewed, as a NumPy array that keeps its owner alive.
py::array numpy_view(const ArrayView& view, const py::dtype& dtype);

py::object as_numpy(const py::object& array);
void register_dlpack(py::module_& m);

}  // namespace rnnk_py
