// rnnkern for C++17: the functions of rnnkern.h with exceptions, a plan that frees itself, aligned memory, and views of arrays.
//
// Header only: nothing but the C ABI is between a program and the library. So the two may come from different compilers, and the
// exceptions are thrown in the program. The structs are those of rnnkern.h; rnnkern::make sets their struct_size.
#ifndef RNNKERN_RNNKERN_HPP
#define RNNKERN_RNNKERN_HPP

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "rnnkern/rnnkern.h"

namespace rnnkern {

// A call that failed: the library's sentence, and its status.
class error : public std::runtime_error {
 public:
  error(rnnk_status status, const std::string& sentence) : std::runtime_error(sentence), status_(status) {}
  rnnk_status status() const noexcept { return status_; }

 private:
  rnnk_status status_;
};

inline void check(rnnk_status status) {
  if (status != RNNK_OK) throw error(status, rnnk_last_error());
}

// A struct of rnnkern.h in which everything is neutral.
template <class Struct>
Struct make() {
  Struct s{};
  s.struct_size = sizeof s;
  return s;
}

// --- views of arrays --------------------------------------------------------------------------------------------------------

// The half types have no C++ type here: their views take void* and the dtype.
template <class T>
constexpr rnnk_dtype dtype_of() {
  static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>, "pass void* and the dtype for this type");
  return std::is_same_v<T, float> ? RNNK_FLOAT32 : RNNK_FLOAT64;
}

// A view of a contiguous array. The library never writes to an input, so a view of a const array is right for inputs.
inline rnnk_tensor view(const void* data, rnnk_dtype dtype, std::initializer_list<std::int64_t> shape) {
  if (shape.size() < 1 || shape.size() > 3) throw std::invalid_argument("rnnkern::view: expected 1 to 3 axes");
  rnnk_tensor t{};
  t.data = const_cast<void*>(data);
  t.dtype = dtype;
  std::int64_t stride = 1;
  for (std::size_t i = shape.size(); i-- > 0; stride *= shape.begin()[i]) t.stride[i] = stride;
  return t;
}

template <class T>
rnnk_tensor view(const T* data, std::initializer_list<std::int64_t> shape) {
  return view(data, dtype_of<T>(), shape);
}

// A view of a container with data() and size(), such as std::vector or std::span, of as many numbers as the shape has.
template <class Array, class = std::enable_if_t<std::is_class_v<Array>>>
rnnk_tensor view(const Array& array, std::initializer_list<std::int64_t> shape) {
  std::int64_t count = 1;
  for (const std::int64_t n : shape) count *= n;
  if (static_cast<std::int64_t>(std::size(array)) != count) {
    throw std::invalid_argument("rnnkern::view: expected an array of " + std::to_string(count) + " numbers, got " +
                                std::to_string(std::size(array)));
  }
  return view(std::data(array), shape);
}

// --- memory -----------------------------------------------------------------------------------------------------------------

// Bytes of host memory with the alignment that packed weights, reserve and workspace need.
class buffer {
 public:
  buffer() = default;
  explicit buffer(std::size_t bytes) : data_(::operator new(bytes, std::align_val_t{64})), size_(bytes) {}
  void* data() const noexcept { return data_.get(); }
  std::size_t size() const noexcept { return data_ ? size_ : 0; }

 private:
  struct release {
    void operator()(void* p) const noexcept { ::operator delete(p, std::align_val_t{64}); }
  };
  std::unique_ptr<void, release> data_;
  std::size_t size_ = 0;
};

// A problem bound to kernels. It can be moved and not copied, it never changes, and many threads may use it at once.
class plan {
 public:
  explicit plan(const rnnk_problem& problem, const char* kernel = nullptr) : problem_(problem) {
    rnnk_plan* made = nullptr;
    check(rnnk_plan_create(&problem, kernel, &made));
    plan_.reset(made);
  }
  rnnk_plan* get() const noexcept { return plan_.get(); }
  const rnnk_problem& problem() const noexcept { return problem_; }
  std::int64_t layers() const noexcept { return std::max<std::int64_t>(problem_.num_layers, 1); }
  std::int64_t directions() const noexcept { return problem_.direction == RNNK_BOTH_DIRECTIONS ? 2 : 1; }
  // P: the entries of h.
  std::int64_t outputs() const noexcept { return problem_.proj_size > 0 ? problem_.proj_size : problem_.hidden_size; }
  const char* kernel(std::int64_t layer = 0) const noexcept { return rnnk_plan_kernel(get(), layer); }

  rnnk_sizes sizes(std::int64_t seq_len, std::int64_t batch) const {
    auto s = make<rnnk_sizes>();
    check(rnnk_plan_sizes(get(), seq_len, batch, &s));
    return s;
  }

  // How many numbers the parameters have, and views of them in one array: layer by layer, direction by direction, each in the
  // order of rnnk_weights. The same for the gradients of the parameters (rnnk_args.dweights).
  std::size_t parameters() const {
    std::int64_t count = 0;
    for (std::int64_t l = 0; l < layers(); ++l) {
      for (const auto& [rows, columns] : shapes(l)) count += directions() * rows * columns;
    }
    return static_cast<std::size_t>(count);
  }
  template <class Array>
  std::vector<rnnk_weights> divide(const Array& numbers) const {
    view(numbers, {static_cast<std::int64_t>(parameters())});  // which checks the size
    const auto* at = std::data(numbers);
    std::vector<rnnk_weights> all(static_cast<std::size_t>(layers() * directions()), make<rnnk_weights>());
    for (std::size_t i = 0; i < all.size(); ++i) {
      rnnk_weights& w = all[i];
      rnnk_tensor *to[] = {&w.weight_ih, &w.weight_hh, &w.bias_ih, &w.bias_hh, &w.weight_hr, &w.params}, **next = to;
      for (const auto& [rows, columns] : shapes(static_cast<std::int64_t>(i) / directions())) {
        if (rows > 0) **next = view(at, {rows, columns});
        at += rows * columns, ++next;
      }
    }
    return all;
  }

  // Packs weights of all layers and directions; again after each change of them.
  void pack(const std::vector<rnnk_weights>& weights, const buffer& packed, rnnk_halves halves = RNNK_PACK_BOTH,
            void* cuda_stream = nullptr) const {
    if (static_cast<std::int64_t>(weights.size()) != layers() * directions()) {
      throw std::invalid_argument("rnnkern::plan::pack: expected one struct for each direction of each layer");
    }
    check(rnnk_pack_weights(get(), weights.data(), halves, packed.data(), packed.size(), cuda_stream));
  }
  void forward(const rnnk_args& args) const { check(rnnk_forward(get(), &args)); }
  void backward(const rnnk_args& args) const { check(rnnk_backward(get(), &args)); }

 private:
  struct release {
    void operator()(rnnk_plan* p) const noexcept { rnnk_plan_destroy(p); }
  };
  // Rows and columns of weight_ih, weight_hh, bias_ih, bias_hh, weight_hr, params in one direction of a layer; 0 rows: absent.
  std::array<std::array<std::int64_t, 2>, 6> shapes(std::int64_t layer) const {
    const std::int64_t H = problem_.hidden_size, P = outputs(), rows = rnnk_cell_gates(problem_.cell) * H;
    const std::int64_t inputs = layer == 0 ? problem_.input_size : directions() * P;
    const bool bias = !(problem_.flags & RNNK_PROBLEM_NO_BIAS), matrix = !(problem_.flags & RNNK_PROBLEM_INDEPENDENT);
    return {{{rows, inputs},
             {matrix ? rows : 0, P / std::max<std::int64_t>(problem_.heads, 1)},
             {bias ? rows : 0, 1},
             {bias && matrix ? rows : 0, 1},
             {problem_.proj_size > 0 ? P : 0, H},
             {rnnk_plan_param_rows(get()), H}}};
  }

  rnnk_problem problem_;
  std::unique_ptr<rnnk_plan, release> plan_;
};

// The memory of a plan's calls on the CPU. training: with the reserve that rnnk_backward reads.
struct memory {
  buffer packed, reserve, workspace;

  memory(const plan& p, std::int64_t seq_len, std::int64_t batch, bool training = true) {
    const rnnk_sizes s = p.sizes(seq_len, batch);
    packed = buffer(s.packed);
    if (training) reserve = buffer(s.reserve);
    workspace = buffer(training ? std::max(s.workspace_forward, s.workspace_backward) : s.workspace_forward);
  }
  void attach(rnnk_args& args) const {
    args.packed = packed.data(), args.packed_size = packed.size();
    args.reserve = reserve.data(), args.reserve_size = reserve.size();
    args.workspace = workspace.data(), args.workspace_size = workspace.size();
  }
};

}  // namespace rnnkern
#endif
