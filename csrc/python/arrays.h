// Python arrays as rnnk_tensor views: NumPy's own arrays directly (bfloat16 as ml_dtypes.bfloat16), all others by DLPack; those of a
// GPU also by __cuda_array_interface__, where there is no DLPack.
#pragma once
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

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

// Where an array must be: in host memory, or on one GPU.
struct Where {
  int32_t device = RNNK_CPU, index = 0;
};

// An array of a dtype that is computed with; its shape (-1: any size) and, where it is to be written to, that it may be.
// TypeError / ValueError / NotImplementedError naming the argument. None is the caller's business.
ArrayView view(const py::handle& array, const char* name, const Where& where, std::initializer_list<int64_t> shape,
               bool write);

// Arrays that hold no numbers to compute with, of NumPy or on a GPU. lengths: int32 or int64; marks: bool or uint8; bytes: uint8,
// contiguous. Errors as of `view`.
enum class Items { lengths, marks, bytes };
ArrayView view_items(const py::handle& array, const char* name, const Where& where, Items items,
                     std::initializer_list<int64_t> shape, bool write);

// Whether elements stand in memory without gaps, the last axis innermost.
bool dense(const ArrayView& view);

// First byte and one past the last of an array of any kind, and whether elements share a place.
struct Span {
  uintptr_t begin, end;
  bool overlaps_itself;
};
Span span(const py::handle& array, const char* name, const Where& where);

// Whether an array is a plain matrix [rows, columns] (or, of one row, [columns]): NumPy's own, contiguous, aligned, native,
// of a dtype of ours and writable where asked. Allocates nothing; says no rather than why.
bool plain_rows(const py::handle& array, int64_t rows, int64_t columns, bool write, rnnk_tensor& to);

// The same of an array with so many axes, whose sizes it writes down. An array without elements is not one.
bool plain_array(const py::handle& array, int axes, int64_t* shape, bool write, rnnk_tensor& to);

// Tensors of the library of one, which has DLPack's C table: torch's.
class Tensors {
 public:
  explicit Tensors(const py::handle& like);
  explicit operator bool() const { return api_; }  // false: its library has no such table
  // The view of a tensor with so many axes in host memory, and its sizes. False: it is something else, or empty.
  bool read(const py::handle& array, int axes, int64_t* shape, rnnk_tensor& to) const;
  // A new contiguous tensor, by `new_empty` of the one: also of its dtype.
  py::object make(int dtype, std::initializer_list<int64_t> shape, rnnk_tensor& to) const;
  // The same of uint8, by a tensor of that: 64-byte aligned, or None.
  py::object make_bytes(const py::handle& like, size_t size, void*& data) const;
  bool read_bytes(const py::handle& array, void*& data, size_t& size) const;

 private:
  py::object new_empty(const py::handle& like, const py::tuple& sizes) const;
  bool view(const py::handle& array, void* to) const;

  py::handle like_;
  const void* api_;
};

// Whether tensors of a library with DLPack's C table are of one of `types` itself, dense, in host memory, of a dtype and of these
// shapes (tuples). Says no rather than why, and of other libraries' arrays always.
bool fit(const py::list& tensors, const py::tuple& types, int dtype, const py::tuple& shapes);

int dtype_from_name(const std::string& name);  // TypeError when unknown
py::dtype numpy_dtype(int dtype);

// What is viewed, as a NumPy array that keeps its owner alive.
py::array numpy_view(const ArrayView& view, const py::dtype& dtype);

py::object as_numpy(const py::object& array);
void register_dlpack(py::module_& m);

}  // namespace rnnk_py
