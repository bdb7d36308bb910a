#include "python/arrays.h"

#include <algorithm>
#include <bit>
#include <memory>

#include "python/dlpack_abi.h"
#include "python/gil.h"

namespace rnnk_py {
namespace {

[[noreturn]] void type_error(const std::string& text) { throw py::type_error(text); }

std::string shape_text(const std::vector<int64_t>& shape) {
  std::string text = "(";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + (shape.size() == 1 ? ",)" : ")");
}

std::string type_name(const py::handle& object) {
  return py::str(py::type::handle_of(object).attr("__name__")).cast<std::string>();
}

// NumPy writes the machine's own order as '=', as '|' where there is none to have, or by its name.
bool native(const py::dtype& dtype) {
  const char order = dtype.byteorder();
  return order == '=' || order == '|' || order == (std::endian::native == std::endian::little ? '<' : '>');
}

// The type number NumPy gave ml_dtypes.bfloat16 in this process.
int bfloat16_number() {
  static const int number = py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16")).num();
  return number;
}

// -1 when it is none of ours.
int dtype_of(const py::dtype& dtype) {
  switch (dtype.num()) {
    case 11: return RNNK_FLOAT32;  // NPY_FLOAT
    case 12: return RNNK_FLOAT64;  // NPY_DOUBLE
    case 23: return RNNK_FLOAT16;  // NPY_HALF
    default: return dtype.itemsize() == 2 && dtype.num() == bfloat16_number() ? RNNK_BFLOAT16 : -1;
  }
}

[[noreturn]] void bad_dtype(const char* name, const std::string& got) {
  type_error(std::string(name) + ": expected dtype float32, float64, bfloat16 or float16, got " + got);
}

// All but the dtype.
ArrayView numpy_layout(const py::array& array, const char* name) {
  ArrayView v;
  const py::dtype dtype = array.dtype();
  if (!native(dtype)) {
    type_error(std::string(name) + ": expected native byte order, got " +
               py::str(static_cast<py::object>(dtype.attr("str"))).cast<std::string>());
  }
  v.tensor.data = const_cast<void*>(array.data());
  v.writable = array.writeable();
  const py::ssize_t item = array.itemsize();
  for (py::ssize_t i = 0; i < array.ndim(); ++i) {
    v.shape.push_back(array.shape(i));
    if (array.strides(i) % item != 0 && array.shape(i) > 1) {
      throw py::value_error(std::string(name) + ": strides must be whole elements, got a stride of " +
                            std::to_string(array.strides(i)) + " bytes for items of " + std::to_string(item));
    }
    v.strides.push_back(array.strides(i) / item);
  }
  if (reinterpret_cast<uintptr_t>(v.tensor.data) % static_cast<size_t>(item)) {
    throw py::value_error(std::string(name) +
                          ": expected aligned data, got an address that is no multiple of the item size");
  }
  v.owner = array;
  return v;
}

ArrayView view_numpy(const py::array& array, const char* name) {
  const py::dtype dtype = array.dtype();
  const int code = dtype_of(dtype);
  if (code < 0) bad_dtype(name, py::str(static_cast<py::object>(dtype)).cast<std::string>());
  ArrayView v = numpy_layout(array, name);
  v.tensor.dtype = code;
  return v;
}

std::string text_of(const Where& where) {
  return where.device == RNNK_CPU ? "in CPU memory" : "on cuda:" + std::to_string(where.index);
}

void check_device(const dlpack::Device& device, const char* name, const Where& where) {
  const bool host = device.type == dlpack::kCPU || device.type == dlpack::kCUDAHost;
  const bool gpu = device.type == dlpack::kCUDA || device.type == dlpack::kCUDAManaged;
  if (where.device == RNNK_CPU ? host : gpu && (device.id == where.index || device.type == dlpack::kCUDAManaged)) return;
  const std::string got = host  ? "one in CPU memory"
                          : gpu ? "one on cuda:" + std::to_string(device.id)
                                : "DLPack device type " + std::to_string(device.type);
  const std::string text = std::string(name) + ": expected an array " + text_of(where) + ", got " + got +
                           "; nothing is moved between devices silently";
  PyErr_SetString(host || gpu ? PyExc_ValueError : PyExc_NotImplementedError, text.c_str());
  throw py::error_already_set();
}

// What a DLPack capsule says, and who keeps its memory.
struct Imported {
  dlpack::Tensor tensor;
  bool read_only;
  py::object owner;
};

template <class Managed>
py::object own(Managed* managed) {
  return py::capsule(managed, [](void* p) {
    auto* m = static_cast<Managed*>(p);
    if (m->deleter) m->deleter(m);
  });
}

// Takes over a capsule: renames it as the protocol asks and calls the deleter when the last view is gone.
Imported import_dlpack(const py::handle& array, const char* name, const Where& where) {
  const py::tuple device = array.attr("__dlpack_device__")();
  check_device({device[0].cast<int32_t>(), device[1].cast<int32_t>()}, name, where);
  // -1: the producer is not to synchronise anything. A caller says on which stream to run, and that is its library's own
  // current stream: what made the array is on it already (and a stream that is being captured must not wait for another).
  py::dict how;
  if (where.device != RNNK_CPU) how["stream"] = -1;
  py::object capsule;
  try {
    capsule = array.attr("__dlpack__")(**how, py::arg("max_version") = py::make_tuple(1, 1));
  } catch (py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;  // a 0.x producer does not know the argument
    capsule = array.attr("__dlpack__")(**how);
  }
  PyObject* raw = capsule.ptr();
  if (PyCapsule_IsValid(raw, "dltensor_versioned")) {
    auto* m = static_cast<dlpack::ManagedTensorVersioned*>(PyCapsule_GetPointer(raw, "dltensor_versioned"));
    if (m->version.major > 1) throw py::buffer_error(std::string(name) + ": DLPack version is newer than 1.x");
    PyCapsule_SetName(raw, "used_dltensor_versioned");
    return {m->tensor, (m->flags & dlpack::kReadOnly) != 0, own(m)};
  }
  if (!PyCapsule_IsValid(raw, "dltensor")) type_error(std::string(name) + ": __dlpack__ returned no DLPack capsule");
  auto* m = static_cast<dlpack::ManagedTensor*>(PyCapsule_GetPointer(raw, "dltensor"));
  PyCapsule_SetName(raw, "used_dltensor");
  return {m->tensor, false, own(m)};
}

int dtype_of(const dlpack::DataType& t) {
  if (t.lanes != 1) return -1;
  if (t.code == dlpack::kFloat && t.bits == 32) return RNNK_FLOAT32;
  if (t.code == dlpack::kFloat && t.bits == 64) return RNNK_FLOAT64;
  if (t.code == dlpack::kFloat && t.bits == 16) return RNNK_FLOAT16;
  if (t.code == dlpack::kBfloat && t.bits == 16) return RNNK_BFLOAT16;
  return -1;
}

[[noreturn]] void bad_dtype(const char* name, const dlpack::DataType& t) {
  bad_dtype(name, "DLPack type code " + std::to_string(t.code) + " with " + std::to_string(t.bits) + " bits");
}

void shape_of(const dlpack::Tensor& t, ArrayView& v) {
  v.tensor.data = static_cast<char*>(t.data) + t.byte_offset;
  v.shape.assign(t.shape, t.shape + t.ndim);
  v.strides.resize(v.shape.size());
  int64_t step = 1;
  for (size_t i = v.shape.size(); i-- > 0;) {
    v.strides[i] = t.strides ? t.strides[i] : step;
    step *= t.shape[i];
  }
}

// The table of a type that has one, looked up once for each type: torch's Python methods cost some 5 us an array.
const dlpack::ExchangeApi* exchange_api(PyTypeObject* type) {
  struct Known {
    PyTypeObject* type = nullptr;  // kept alive, so that no other type gets its address
    const dlpack::ExchangeApi* api = nullptr;
  };
  static Known known[4];  // under the GIL
  static unsigned next = 0;
  for (const Known& k : known) {
    if (k.type == type) return k.api;
  }
  const dlpack::ExchangeApi* api = nullptr;
  const py::handle object(reinterpret_cast<PyObject*>(type));
  if (py::hasattr(object, "__dlpack_c_exchange_api__")) {
    const py::object capsule = object.attr("__dlpack_c_exchange_api__");
    api = static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
    if (!api) throw py::error_already_set();
    while (api && api->version.major != 1) api = api->previous;
    if (api && !api->tensor_from_object) api = nullptr;
  }
  Known& slot = known[next++ % 4];
  Py_INCREF(type);
  Py_XDECREF(slot.type);
  slot = {type, api};
  return api;
}

// An array by DLPack: all of its view but the dtype, which may be none of ours.
dlpack::DataType from_dlpack(const py::handle& array, const char* name, const Where& where, ArrayView& v) {
  if (const dlpack::ExchangeApi* api = exchange_api(Py_TYPE(array.ptr()))) {
    dlpack::Tensor t;
    if (api->tensor_from_object(array.ptr(), &t) != 0) throw py::error_already_set();
    check_device(t.device, name, where);
    shape_of(t, v);
    v.writable = true;
    v.owner = py::reinterpret_borrow<py::object>(array);
    return t.dtype;
  }
  const Imported from = import_dlpack(array, name, where);
  shape_of(from.tensor, v);
  v.writable = !from.read_only;
  v.owner = py::make_tuple(from.owner, array);
  return from.tensor.dtype;
}

// The same by the CUDA array interface (version 2 or 3), which knows no bfloat16 and no number of the GPU: that is the
// library's to know (devices.py). Its entry "stream" is the one the producer last worked on. It is not waited for, since the
// caller names the stream to run on, and orders it after the producer's: they are the same for a library's own arrays.
dlpack::DataType from_interface(const py::handle& array, const char* name, ArrayView& v) {
  const py::dict facts = array.attr("__cuda_array_interface__");
  const std::string type = facts["typestr"].cast<std::string>();
  const uint8_t code = type.size() < 3  ? 255
                       : type[1] == 'f' ? dlpack::kFloat
                       : type[1] == 'i' ? dlpack::kInt
                       : type[1] == 'u' ? dlpack::kUInt
                       : type[1] == 'b' ? dlpack::kBool
                                        : 255;
  if (code == 255 || type[0] == '>' || type.find_first_not_of("0123456789", 2) != std::string::npos || type.size() > 4) {
    type_error(std::string(name) + ": expected little-endian numbers, got typestr " + type);
  }
  const int64_t item = std::stoi(type.substr(2));
  if (facts.contains("mask") && !facts["mask"].is_none()) {
    type_error(std::string(name) + ": expected a plain array, got a masked one, whose mask would be ignored");
  }
  const auto data = facts["data"].cast<std::pair<uintptr_t, bool>>();
  v.tensor.data = reinterpret_cast<void*>(data.first);
  v.writable = !data.second;
  v.shape = facts["shape"].cast<std::vector<int64_t>>();
  v.strides.resize(v.shape.size());
  int64_t step = 1;
  for (size_t i = v.shape.size(); i-- > 0; step *= v.shape[i]) v.strides[i] = step;
  if (facts.contains("strides") && !facts["strides"].is_none()) {
    const auto strides = facts["strides"].cast<std::vector<int64_t>>();
    for (size_t i = 0; i < v.shape.size(); ++i) {
      if (strides.at(i) % item && v.shape[i] > 1) {
        throw py::value_error(std::string(name) + ": strides must be whole elements, got a stride of " +
                              std::to_string(strides[i]) + " bytes for items of " + std::to_string(item));
      }
      v.strides[i] = strides[i] / item;
    }
  }
  v.owner = py::reinterpret_borrow<py::object>(array);
  return {code, static_cast<uint8_t>(item * 8), 1};
}

// Any array that is not NumPy's.
dlpack::DataType foreign(const py::handle& array, const char* name, const Where& where, ArrayView& v) {
  if (exchange_api(Py_TYPE(array.ptr())) || py::hasattr(array, "__dlpack__")) return from_dlpack(array, name, where, v);
  if (py::hasattr(array, "__cuda_array_interface__")) {
    if (where.device == RNNK_CPU) check_device({dlpack::kCUDA, 0}, name, where);
    return from_interface(array, name, v);
  }
  type_error(std::string(name) + ": expected an array (NumPy, or with __dlpack__" +
             (where.device == RNNK_CPU ? "" : " or __cuda_array_interface__") + "), got " + type_name(array));
}

ArrayView view_any(const py::handle& array, const char* name, const Where& where) {
  if (py::isinstance<py::array>(array)) {
    if (where.device != RNNK_CPU) check_device({dlpack::kCPU, 0}, name, where);
    return view_numpy(py::reinterpret_borrow<py::array>(array), name);
  }
  ArrayView v;
  const dlpack::DataType type = foreign(array, name, where, v);
  v.tensor.dtype = dtype_of(type);
  if (v.tensor.dtype < 0) bad_dtype(name, type);
  return v;
}

void check_use(const ArrayView& v, const char* name, std::initializer_list<int64_t> shape, bool write) {
  bool fits = v.shape.size() == shape.size();
  for (size_t i = 0; fits && i < shape.size(); ++i) fits = shape.begin()[i] < 0 || shape.begin()[i] == v.shape[i];
  if (!fits) {
    throw py::value_error(std::string(name) + ": expected shape " + shape_text(shape) + ", got " + shape_text(v.shape));
  }
  if (write && !v.writable) throw py::value_error(std::string(name) + ": expected a writable array, got a read-only one");
}

}  // namespace

ArrayView view(const py::handle& array, const char* name, const Where& where, std::initializer_list<int64_t> shape,
               bool write) {
  ArrayView v = view_any(array, name, where);
  check_use(v, name, shape, write);
  for (size_t i = 0; i < v.strides.size() && i < 3; ++i) v.tensor.stride[i] = v.strides[i];
  // An empty array may have a null pointer, which means "absent" below; nothing will be read through this one.
  static char nothing;
  if (!v.tensor.data) {
    const bool empty = std::find(v.shape.begin(), v.shape.end(), 0) != v.shape.end();
    if (!empty) throw py::value_error(std::string(name) + ": expected an array with memory, got one without");
    v.tensor.data = &nothing;
  }
  return v;
}

ArrayView view_items(const py::handle& array, const char* name, const Where& where, Items items,
                     std::initializer_list<int64_t> shape, bool write) {
  ArrayView v;
  dlpack::DataType t{255, 0, 1};
  const bool numpy = py::isinstance<py::array>(array);
  if (where.device != RNNK_CPU) {
    if (numpy) check_device({dlpack::kCPU, 0}, name, where);
    t = foreign(array, name, where, v);
  } else {
    if (!numpy) type_error(std::string(name) + ": expected a NumPy array, got " + type_name(array));
    const auto own = py::reinterpret_borrow<py::array>(array);
    v = numpy_layout(own, name);
    const char kind = own.dtype().kind();
    if (kind == 'i') t.code = dlpack::kInt;
    if (kind == 'u') t.code = dlpack::kUInt;
    if (kind == 'b') t.code = dlpack::kBool;
    t.bits = static_cast<uint8_t>(own.itemsize() * 8);
  }
  const bool byte = t.bits == 8 && (t.code == dlpack::kUInt || (items == Items::marks && t.code == dlpack::kBool));
  const bool length = t.code == dlpack::kInt && (t.bits == 32 || t.bits == 64);
  if (t.lanes != 1 || !(items == Items::lengths ? length : byte)) {
    const char* const wanted[] = {"int32 or int64", "bool or uint8", "uint8"};
    type_error(std::string(name) + ": expected dtype " + wanted[static_cast<int>(items)] + ", got DLPack type code " +
               std::to_string(t.code) + " with " + std::to_string(t.bits) + " bits");
  }
  v.tensor.dtype = !length ? RNNK_UINT8 : t.bits == 32 ? RNNK_INT32 : RNNK_INT64;
  check_use(v, name, shape, write);
  if (items == Items::bytes && !dense(v)) throw py::value_error(std::string(name) + ": expected a contiguous array");
  for (size_t i = 0; i < v.strides.size() && i < 3; ++i) v.tensor.stride[i] = v.strides[i];
  alignas(64) static char nothing[64];
  if (!v.tensor.data) v.tensor.data = nothing;
  return v;
}

Span span(const py::handle& array, const char* name, const Where& where) {
  ArrayView v;
  const dlpack::DataType t = foreign(array, name, where, v);
  const auto begin = reinterpret_cast<uintptr_t>(v.tensor.data);
  Span s{begin, begin, false};
  int64_t low = 0, high = t.bits / 8;
  for (size_t i = 0; i < v.shape.size(); ++i) {
    if (v.shape[i] == 0) return s;
    const int64_t reach = (v.shape[i] - 1) * v.strides[i] * (t.bits / 8);
    (reach < 0 ? low : high) += reach;
    s.overlaps_itself |= v.shape[i] > 1 && v.strides[i] == 0;
  }
  s.begin = begin + static_cast<uintptr_t>(low), s.end = begin + static_cast<uintptr_t>(high);
  return s;
}

bool dense(const ArrayView& v) {
  int64_t step = 1;
  for (size_t i = v.shape.size(); i-- > 0; step *= v.shape[i]) {
    if (v.shape[i] != 1 && v.strides[i] != step) return false;
  }
  return true;
}

namespace {

// NumPy's own array, contiguous, aligned, native, of a dtype of ours; null: it is something else.
const py::detail::PyArray_Proxy* plain(const py::handle& array, bool write, rnnk_tensor& to) {
  const auto& numpy = py::detail::npy_api::get();
  if (Py_TYPE(array.ptr()) != numpy.PyArray_Type_) return nullptr;
  const auto* a = py::detail::array_proxy(array.ptr());
  const int wanted = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_ |
                     (write ? py::detail::npy_api::NPY_ARRAY_WRITEABLE_ : 0);
  if ((a->flags & wanted) != wanted) return nullptr;
  const py::dtype dtype = py::reinterpret_borrow<py::dtype>(a->descr);
  const int code = dtype_of(dtype);
  if (code < 0 || !native(dtype)) return nullptr;
  to = {};
  to.data = a->data;
  to.dtype = code;
  return a;
}

}  // namespace

bool plain_rows(const py::handle& array, int64_t rows, int64_t columns, bool write, rnnk_tensor& to) {
  const auto* a = plain(array, write, to);
  if (!a || a->nd < 1 || a->nd > 2) return false;
  if (a->dimensions[a->nd - 1] != columns || (a->nd == 2 ? a->dimensions[0] : 1) != rows) return false;
  to.stride[0] = columns, to.stride[1] = 1;
  return columns > 0 && rows > 0;
}

bool plain_array(const py::handle& array, int axes, int64_t* shape, bool write, rnnk_tensor& to) {
  const auto* a = plain(array, write, to);
  if (!a || a->nd != axes) return false;
  int64_t stride = 1;
  for (int i = axes - 1; i >= 0; --i) shape[i] = a->dimensions[i], to.stride[i] = stride, stride *= shape[i];
  return stride > 0;
}

Tensors::Tensors(const py::handle& like) : like_(like), api_(exchange_api(Py_TYPE(like.ptr()))) {}

bool Tensors::view(const py::handle& array, void* to) const {
  if (exchange_api(Py_TYPE(array.ptr())) != api_) return false;
  if (static_cast<const dlpack::ExchangeApi*>(api_)->tensor_from_object(array.ptr(), static_cast<dlpack::Tensor*>(to)) ==
      0) {
    return true;
  }
  PyErr_Clear();
  return false;
}

bool Tensors::read(const py::handle& array, int axes, int64_t* shape, rnnk_tensor& to) const {
  dlpack::Tensor t;
  if (!view(array, &t)) return false;
  const int dtype = dtype_of(t.dtype);
  const bool host = t.device.type == dlpack::kCPU || t.device.type == dlpack::kCUDAHost;
  if (!host || dtype < 0 || t.ndim != axes) return false;
  to = {};
  to.data = t.data ? static_cast<char*>(t.data) + t.byte_offset : nullptr;
  to.dtype = dtype;
  int64_t dense = 1;
  for (int i = axes - 1; i >= 0; --i) {
    shape[i] = t.shape[i];
    to.stride[i] = t.strides ? t.strides[i] : dense;
    dense *= shape[i];
  }
  return dense > 0 && to.data;
}

py::object Tensors::new_empty(const py::handle& like, const py::tuple& sizes) const {
  static PyObject* const name = PyUnicode_InternFromString("new_empty");
  py::object made = py::reinterpret_steal<py::object>(PyObject_CallMethodOneArg(like.ptr(), name, sizes.ptr()));
  if (!made) throw py::error_already_set();
  return made;
}

py::object Tensors::make_bytes(const py::handle& like, size_t size, void*& data) const {
  const py::object made = new_empty(like, py::make_tuple(size));
  size_t got = 0;
  return read_bytes(made, data, got) ? made : py::object(py::none());
}

bool Tensors::read_bytes(const py::handle& array, void*& data, size_t& size) const {
  dlpack::Tensor t;
  if (!view(array, &t) || t.device.type != dlpack::kCPU || t.dtype.bits != 8 || t.ndim != 1) return false;
  if (t.strides && t.strides[0] != 1 && t.shape[0] > 1) return false;
  data = static_cast<char*>(t.data) + t.byte_offset, size = static_cast<size_t>(t.shape[0]);
  return reinterpret_cast<uintptr_t>(data) % 64 == 0;
}

py::object Tensors::make(int, std::initializer_list<int64_t> shape, rnnk_tensor& to) const {
  py::tuple sizes(shape.size());
  for (size_t i = 0; i < shape.size(); ++i) sizes[i] = shape.begin()[i];
  const py::object made = new_empty(like_, sizes);
  int64_t got[3];
  if (!read(made, static_cast<int>(shape.size()), got, to)) throw std::runtime_error("new_empty: expected a tensor like x");
  return made;
}

bool fit(const py::list& tensors, const py::tuple& types, int dtype, const py::tuple& shapes) {
  if (tensors.size() != shapes.size()) return false;
  for (size_t i = 0; i < shapes.size(); ++i) {
    PyObject* const tensor = PyList_GET_ITEM(tensors.ptr(), static_cast<Py_ssize_t>(i));
    bool known = false;
    for (size_t k = 0; k < types.size(); ++k) {
      known |= PyTuple_GET_ITEM(types.ptr(), static_cast<Py_ssize_t>(k)) == reinterpret_cast<PyObject*>(Py_TYPE(tensor));
    }
    const dlpack::ExchangeApi* const api = known ? exchange_api(Py_TYPE(tensor)) : nullptr;
    dlpack::Tensor t;
    if (!api) return false;
    if (api->tensor_from_object(tensor, &t) != 0) {
      PyErr_Clear();  // no dense one: who asks has words for what it is
      return false;
    }
    PyObject* const shape = PyTuple_GET_ITEM(shapes.ptr(), static_cast<Py_ssize_t>(i));
    if (!PyTuple_Check(shape)) type_error("shapes: expected tuples, got " + type_name(shape));
    if (t.device.type != dlpack::kCPU || dtype_of(t.dtype) != dtype || t.ndim != PyTuple_GET_SIZE(shape)) return false;
    for (int32_t d = 0; d < t.ndim; ++d) {
      if (t.shape[d] != py::cast<int64_t>(py::handle(PyTuple_GET_ITEM(shape, d)))) return false;
    }
  }
  return true;
}

int dtype_from_name(const std::string& name) {
  static const char* const names[] = {"float32", "float64", "bfloat16", "float16"};
  for (int i = 0; i < 4; ++i) {
    if (name == names[i]) return i;
  }
  type_error("dtype: expected float32, float64, bfloat16 or float16, got " + name);
}

py::dtype numpy_dtype(int dtype) {
  switch (dtype) {
    case RNNK_FLOAT32: return py::dtype::of<float>();
    case RNNK_FLOAT64: return py::dtype::of<double>();
    case RNNK_FLOAT16: return py::dtype("float16");
    default: return py::dtype::from_args(py::module_::import("ml_dtypes").attr("bfloat16"));
  }
}

py::array numpy_view(const ArrayView& v, const py::dtype& dtype) {
  std::vector<py::ssize_t> strides;
  for (int64_t s : v.strides) strides.push_back(s * dtype.itemsize());
  py::array out(dtype, std::vector<py::ssize_t>(v.shape.begin(), v.shape.end()), strides, v.tensor.data, v.owner);
  if (!v.writable) out.attr("setflags")(py::arg("write") = false);
  return out;
}

py::object as_numpy(const py::object& array) {
  if (py::isinstance<py::array>(array)) return array;
  if (!py::hasattr(array, "__dlpack__")) type_error("array: expected __dlpack__, got " + type_name(array));
  ArrayView v;
  const Imported from = import_dlpack(array, "array", {});
  shape_of(from.tensor, v);
  v.writable = !from.read_only;
  v.owner = py::make_tuple(from.owner, array);
  const dlpack::DataType type = from.tensor.dtype;
  const bool integer = (type.code == dlpack::kInt || type.code == dlpack::kUInt) && type.lanes == 1;
  v.tensor.dtype = dtype_of(type);
  if (!integer && v.tensor.dtype < 0) bad_dtype("array", type);
  const py::dtype dtype = integer ? py::dtype((type.code == dlpack::kInt ? "int" : "uint") + std::to_string(type.bits))
                                  : numpy_dtype(v.tensor.dtype);
  return numpy_view(v, dtype);
}

namespace {

// Exports a NumPy array; exists because NumPy's own __dlpack__ refuses bfloat16 and read-only arrays for 0.x consumers.
class Export {
 public:
  explicit Export(py::array array) : array_(std::move(array)) { view_numpy(array_, "array"); }

  py::capsule dlpack(const py::object& max_version) const {
    const bool versioned = !max_version.is_none() && py::cast<py::tuple>(max_version)[0].cast<int>() >= 1;
    return versioned ? make<dlpack::ManagedTensorVersioned>("dltensor_versioned") : make<dlpack::ManagedTensor>("dltensor");
  }

 private:
  template <class Managed>
  struct Holder {
    Managed managed{};
    ArrayView view;
  };

  template <class Managed>
  py::capsule make(const char* name) const {
    auto holder = std::make_unique<Holder<Managed>>();
    holder->view = view_numpy(array_, "array");
    dlpack::Tensor& t = holder->managed.tensor;
    const int dtype = holder->view.tensor.dtype;
    t.data = holder->view.tensor.data;
    t.device = {dlpack::kCPU, 0};
    t.ndim = static_cast<int32_t>(holder->view.shape.size());
    t.dtype = {dtype == RNNK_BFLOAT16 ? dlpack::kBfloat : dlpack::kFloat, static_cast<uint8_t>(array_.itemsize() * 8), 1};
    t.shape = holder->view.shape.data();
    t.strides = holder->view.strides.data();
    holder->managed.context = holder.get();
    holder->managed.deleter = [](Managed* m) {
      const WithGil gil;
      if (gil) delete static_cast<Holder<Managed>*>(m->context);  // else it goes with the process
    };
    if constexpr (std::is_same_v<Managed, dlpack::ManagedTensorVersioned>) {
      holder->managed.version = {1, 0};
      holder->managed.flags = holder->view.writable ? 0 : dlpack::kReadOnly;
    }
    Managed* raw = &holder.release()->managed;
    // A consumer renames the capsule and takes the tensor over; one that was never consumed frees it here.
    PyObject* capsule = PyCapsule_New(raw, name, [](PyObject* c) {
      for (const char* unused : {"dltensor", "dltensor_versioned"}) {
        if (!PyCapsule_IsValid(c, unused)) continue;
        auto* m = static_cast<Managed*>(PyCapsule_GetPointer(c, unused));
        m->deleter(m);
      }
    });
    if (!capsule) throw py::error_already_set();
    return py::reinterpret_steal<py::capsule>(capsule);
  }

  py::array array_;
};

}  // namespace

void register_dlpack(py::module_& m) {
  py::class_<Export>(m, "DLPack")
      .def(py::init<py::array>(), py::arg("array"))
      .def("__dlpack__",
           [](const Export& e, const py::kwargs& kwargs) {
             return e.dlpack(kwargs.contains("max_version") ? py::object(kwargs["max_version"]) : py::none());
           })
      .def("__dlpack_device__", [](const Export&) { return py::make_tuple(static_cast<int>(dlpack::kCPU), 0); });
  m.def("as_numpy", &as_numpy, py::arg("array"));
}

}  // namespace rnnk_py
