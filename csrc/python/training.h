// Training of a network on tensors in one call for each pass, as inference.h does inference.
#pragma once
#include "python/inference.h"

namespace rnnk_py {
namespace {

class Training : public Inference {
 public:
  Training(std::shared_ptr<Plan> plan, bool batch_first, bool step)
      : Inference(std::move(plan), nullptr, batch_first, step) {}

  // The forward: (y, h_n, c_n, reserve), None in the place of what there is not: of a cell y is its h, and h_n is None. weights: as
  // of try_tensors. bytes: a tensor of uint8, whose like the reserve is. None: something is unusual and nothing was done.
  py::object try_forward(const py::handle& x, const py::handle& state, const py::list& weights,
                         const py::handle& bytes) const {
    const Tensors tensors(x);
    Weights given;
    rnnk_args args{};
    if (!plain_ || !tensors || !take_weights(tensors, weights, given) || !take_inputs(tensors, x, state, args))
      return py::none();
    const size_t size = plan_->needs(args.seq_len, args.batch).sizes.reserve;
    if (size > kMostReserve) return py::none();
    const Outputs out = give_outputs(tensors, args);
    py::object reserve = tensors.make_bytes(bytes, std::max<size_t>(size, 64), args.reserve);
    if (reserve.is_none()) return reserve;
    args.reserve_size = std::max<size_t>(size, 64);
    run(false, args, given.all.data());
    const auto or_none = [](const py::object& o) { return o ? o : py::object(py::none()); };
    return py::make_tuple(out.y, or_none(out.h_n), or_none(out.c_n), reserve);
  }

  // The gradients of (x, h_0, c_0, *weights), the weights without those that are absent; None where `needs` says so. state: a pair
  // (h_0, c_0), each perhaps None, as outputs (y, h_n, c_n) are, and their gradients. None: as above.
  py::object try_backward(const py::tuple& inputs, const py::list& weights, const py::tuple& outputs, const py::tuple& grads,
                          const py::tuple& needs) const {
    const Tensors tensors(inputs[0]);
    Weights given;
    rnnk_args args{};
    if (!plain_ || !tensors || !take_weights(tensors, weights, given)) return py::none();
    if (!take_inputs(tensors, inputs[0], py::none(), args)) return py::none();
    const int64_t B = args.batch, L = plan_->count(), P = plan_->outputs(), C = plan_->cell_units();
    const auto state = [&](const py::handle& array, int64_t units, rnnk_tensor& to) {
      return array.is_none() || take_state(tensors, array, B, units, to);
    };
    int64_t shape[3] = {1, 1, 1};
    const auto sequence = [&](const py::handle& array, rnnk_tensor& to) {
      return take_sequence(tensors, array, plan_->width(), shape, to) && shape[0] == args.seq_len && shape[1] == B;
    };
    if (!state(inputs[1], P, args.h_0) || !state(inputs[2], C, args.c_0) || !sequence(outputs[0], args.y) ||
        !tensors.read_bytes(outputs[1], args.reserve, args.reserve_size) ||
        !(py::handle(grads[0]).is_none() || sequence(grads[0], args.dy)) || !state(grads[1], P, args.dh_n) ||
        !state(grads[2], C, args.dc_n)) {
      return py::none();
    }
    py::list answer;
    const auto wanted = [&] { return py::cast<bool>(needs[answer.size()]); };
    const auto give = [&](const auto& make) { answer.append(wanted() ? make() : py::object(py::none())); };
    give([&] { return give_sequence(tensors, args, plan_->input_size(), args.dx); });
    give([&] { return give_states(tensors, {L, B, P}, args.dh_0); });
    give([&] { return give_states(tensors, {L, B, C}, args.dc_0); });
    std::vector<rnnk_weights> gradients(given.all.size(), rnnk_weights{sizeof(rnnk_weights), {}, {}, {}, {}, {}, {}});
    for (size_t i = 0; i < given.shapes.size(); ++i) {
      if (!slot(given.all[i / kSlots], i).data) continue;
      if (wanted()) args.dweights = gradients.data();
      give([&] {
        const auto [rows, columns] = given.shapes[i];
        rnnk_tensor& to = slot(gradients[i / kSlots], i);
        return is_bias(i) ? tensors.make(plan_->dtype(), {rows}, to) : tensors.make(plan_->dtype(), {rows, columns}, to);
      });
    }
    run(true, args, given.all.data());
    return py::tuple(answer);
  }

 private:
  // A larger reserve is worth a block that is kept between calls (memory.h), and the way through Python.
  static constexpr size_t kMostReserve = size_t{1} << 20;
};

}  // namespace
}  // namespace rnnk_py
