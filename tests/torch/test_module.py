"""rnnkern.torch's modules are torch.nn's in every other way: construction, state dicts, pickling, errors, dropout."""

from __future__ import annotations

import array
import copy
import inspect
import io
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import rnnkern as rk
import rnnkern.torch as rt

LAYERS = ("RNN", "LSTM", "GRU")
CELLS = ("RNNCell", "LSTMCell", "GRUCell")
IN, H = 3, 4


def pair(name: str, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    modules = []
    for library in (torch.nn, rt):
        torch.manual_seed(0)
        modules.append(getattr(library, name)(IN, H, *args, **kwargs))
    return modules[0], modules[1]


def state_of(name: str, *shape: int, dtype: torch.dtype = torch.float32) -> Any:
    state = torch.randn(*shape, dtype=dtype)
    return (state, state.clone()) if name.startswith("LSTM") else state


def tensors(result: Any) -> list[torch.Tensor]:
    """Every tensor of a module's answer."""
    return [result] if isinstance(result, torch.Tensor) else [leaf for part in result for leaf in tensors(part)]


# Construction ---------------------------------------------------------------------------------------------------------

OPTIONS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((2,), {"bidirectional": True}),
    ((2,), {"bias": False, "batch_first": True, "dropout": 0.25}),
    ((), {"dtype": torch.float64, "device": "cpu"}),
]


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("args", "kwargs"), OPTIONS)
def test_layers_draw_name_and_print_like_torch(name: str, args: Any, kwargs: Any) -> None:
    assert_same_construction(*pair(name, *args, **kwargs))


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("kwargs", [{}, {"bias": False}, {"dtype": torch.float64}])
def test_cells_draw_name_and_print_like_torch(name: str, kwargs: Any) -> None:
    assert_same_construction(*pair(name, **kwargs))
    assert_same_construction(*pair("RNNCell", nonlinearity="relu"))


def assert_same_construction(theirs: Any, ours: Any) -> None:
    assert repr(ours) == repr(theirs)
    assert [name for name, _ in ours.named_parameters()] == [name for name, _ in theirs.named_parameters()]
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    torch.manual_seed(5)
    theirs.reset_parameters()
    torch.manual_seed(5)
    ours.reset_parameters()
    assert ours.load_state_dict(theirs.state_dict()) == theirs.load_state_dict(ours.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    if hasattr(theirs, "all_weights"):
        named = dict(ours.named_parameters())
        assert [[id(w) for w in ws] for ws in ours.all_weights] == [
            [id(named[name]) for name in names] for names in theirs._all_weights
        ]
        ours.flatten_parameters()


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_positional_order_is_that_of_torch(name: str) -> None:
    # torch.nn's layers take *args; the overload in front of them is the documented order.
    overloads = {
        "RNN": "input_size hidden_size num_layers nonlinearity bias batch_first dropout bidirectional device dtype",
        "GRU": "input_size hidden_size num_layers bias batch_first dropout bidirectional device dtype",
        "LSTM": "input_size hidden_size num_layers bias batch_first dropout bidirectional proj_size device dtype",
    }
    # Keywords alone, after torch's own arguments, are options of the cell.
    ours = [p.name for p in inspect.signature(getattr(rt, name)).parameters.values() if p.kind in _POSITIONAL]
    theirs = (
        overloads[name].split() if name in overloads else list(inspect.signature(getattr(torch.nn, name)).parameters)
    )
    assert ours == theirs


def test_positional_arguments_arrive() -> None:
    assert repr(rt.RNN(3, 4, 2, "relu", False, True, 0.5, True)) == repr(
        torch.nn.RNN(3, 4, 2, "relu", False, True, 0.5, True)
    )
    assert repr(rt.GRU(3, 4, 2, False, True, 0.5, True)) == repr(torch.nn.GRU(3, 4, 2, False, True, 0.5, True))
    assert repr(rt.LSTM(3, 4, 2, False, True, 0.5, True, 0)) == repr(torch.nn.LSTM(3, 4, 2, False, True, 0.5, True, 0))
    assert rt.RNN(3, 4, 1, "relu").mode == "RNN_RELU"


def test_meta_device_can_be_constructed_and_filled() -> None:
    module = rt.LSTM(IN, H, device="meta")
    with pytest.raises(NotImplementedError, match=r"weight_ih_l0.*CPU.*meta"):
        module(torch.zeros(2, 2, IN))
    module.to_empty(device="cpu").reset_parameters()
    assert module(torch.zeros(2, 2, IN))[0].shape == (2, 2, H)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(
    "kwargs",
    [
        {"hidden_size": 0}, {"input_size": 0}, {"num_layers": 0}, {"input_size": 2.0}, {"hidden_size": 2.0},
        {"num_layers": 2.0}, {"dropout": 2.0}, {"dropout": -0.1}, {"dropout": True}, {"dropout": "a"}, {"bias": 1},
        {"batch_first": 1}, {"nonlinearity": "sine"}, {"proj_size": -1}, {"proj_size": 4}, {"unheard_of": 1},
    ],
    ids=str,
)  # fmt: skip
def test_constructor_errors_have_the_types_of_torch(name: str, kwargs: dict[str, Any]) -> None:
    arguments = {"input_size": IN, "hidden_size": H} | kwargs
    with pytest.raises((TypeError, ValueError)) as theirs:
        getattr(torch.nn, name)(**arguments)
    with pytest.raises(type(theirs.value)):
        getattr(rt, name)(**arguments)


def test_projections_belong_to_lstm() -> None:
    with pytest.raises(ValueError, match="proj_size argument is only supported for LSTM"):
        rt.GRU(IN, H, proj_size=2)


@pytest.mark.parametrize("name", LAYERS)
def test_dropout_of_a_single_layer_warns_as_torch_does(name: str) -> None:
    with pytest.warns(UserWarning, match="dropout option adds dropout") as theirs:
        getattr(torch.nn, name)(IN, H, dropout=0.5)
    with pytest.warns(UserWarning, match="dropout option adds dropout") as ours:
        getattr(rt, name)(IN, H, dropout=0.5)
    assert str(ours[0].message) == str(theirs[0].message)
    assert ours[0].filename == __file__


@pytest.mark.parametrize("name", CELLS)
def test_cell_sizes_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match="hidden_size must be greater than zero"):
        getattr(rt, name)(3, 0)
    with pytest.raises(ValueError, match="input_size must be greater than zero"):
        getattr(rt, name)(-1, 3)


def test_they_are_modules_but_not_torchs_classes() -> None:
    module = rt.LSTM(IN, H)
    assert isinstance(module, torch.nn.Module)
    assert not isinstance(module, torch.nn.LSTM)


# Errors of a call -----------------------------------------------------------------------------------------------------

x, f64 = torch.zeros(2, 2, IN), torch.float64
PACKED = pack_sequence([torch.zeros(2, IN), torch.zeros(3, IN)], enforce_sorted=False)
BAD_CALLS = {
    "rank 1": lambda name: (torch.zeros(IN),),
    "rank 4": lambda name: (torch.zeros(1, 1, 1, IN),),
    "width": lambda name: (torch.zeros(2, 2, 5),),
    "input dtype": lambda name: (torch.zeros(2, 2, IN, dtype=f64),),
    "integer input": lambda name: (torch.zeros(2, 2, IN, dtype=torch.long),),
    "state dtype": lambda name: (x, state_of(name, 1, 2, H, dtype=f64)),
    "state rank": lambda name: (x, state_of(name, 2, H)),
    "state rank, unbatched": lambda name: (torch.zeros(2, IN), state_of(name, 1, 1, H)),
    "state batch": lambda name: (x, state_of(name, 1, 3, H)),
    "state width": lambda name: (x, state_of(name, 1, 2, 5)),
    "state layers": lambda name: (x, state_of(name, 2, 2, H)),
    "packed dtype": lambda name: (PACKED.double(),),
    "packed width": lambda name: (pack_sequence([torch.zeros(3, 5), torch.zeros(2, 5)]),),
    "packed state batch": lambda name: (PACKED, state_of(name, 1, 1, H)),
    "packed, sizes grow": lambda name: (PackedSequence(torch.zeros(5, IN), torch.tensor([2, 3])),),
    "packed, rows missing": lambda name: (PackedSequence(torch.zeros(4, IN), torch.tensor([3, 2])),),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("what", BAD_CALLS)
def test_call_errors_have_the_types_of_torch(name: str, what: str) -> None:
    theirs, ours = pair(name)
    arguments = BAD_CALLS[what](name)
    with pytest.raises((ValueError, RuntimeError)) as wanted:
        theirs(*arguments)
    # torch's packed LSTM forgets the checks its other layers make, and fails in a product
    kind = ValueError if (name, what) == ("LSTM", "packed dtype") else type(wanted.value)
    with pytest.raises(kind) as got:
        ours(*arguments)
    assert type(got.value) is kind


BAD_STEPS = {
    "rank 0": lambda name: (torch.zeros(()),),
    "rank 3": lambda name: (torch.zeros(1, 1, IN),),
    "width": lambda name: (torch.zeros(2, 5),),
    "input dtype": lambda name: (torch.zeros(2, IN, dtype=f64),),
    "state dtype": lambda name: (torch.zeros(2, IN), state_of(name, 2, H, dtype=f64)),
    "state rank 3": lambda name: (torch.zeros(2, IN), state_of(name, 1, 2, H)),
    "state rank 1, batched": lambda name: (torch.zeros(2, IN), state_of(name, H)),
    "state rank 2, unbatched": lambda name: (torch.zeros(IN), state_of(name, 1, H)),
    "state batch": lambda name: (torch.zeros(2, IN), state_of(name, 3, H)),
    "state batch of one": lambda name: (torch.zeros(2, IN), state_of(name, 1, H)),
    "state width": lambda name: (torch.zeros(2, IN), state_of(name, 2, 5)),
}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("what", BAD_STEPS)
def test_step_errors_have_the_types_of_torch(name: str, what: str) -> None:
    theirs, ours = pair(name)
    arguments = BAD_STEPS[what](name)
    with pytest.raises((ValueError, RuntimeError)) as wanted:
        theirs(*arguments)
    with pytest.raises(type(wanted.value)) as got:
        ours(*arguments)
    assert type(got.value) is type(wanted.value)


def test_states_of_the_wrong_kind() -> None:
    with pytest.raises(RuntimeError, match="tuple"):
        rt.LSTM(IN, H)(x, torch.zeros(1, 2, H))
    with pytest.raises(RuntimeError, match="tuple"):
        rt.LSTM(IN, H)(x, (torch.zeros(1, 2, H),) * 3)
    with pytest.raises(TypeError, match=r"hidden: expected a torch\.Tensor, got tuple"):
        rt.GRU(IN, H)(x, (torch.zeros(1, 2, H),) * 2)
    with pytest.raises(TypeError, match="tuple"):
        rt.LSTMCell(IN, H)(torch.zeros(2, IN), torch.zeros(2, H))
    with pytest.raises(RuntimeError, match="two hidden states, got 3"):
        rt.LSTMCell(IN, H)(torch.zeros(2, IN), (torch.zeros(2, H),) * 3)
    with pytest.raises(RuntimeError, match="Unknown nonlinearity: sine"):
        rt.RNNCell(IN, H, nonlinearity="sine")(torch.zeros(2, IN))


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature:UserWarning")
@pytest.mark.parametrize("name", LAYERS)
def test_inputs_no_kernel_can_read(name: str) -> None:
    module = pair(name)[1]
    with pytest.raises(TypeError, match=r"input: expected a torch\.Tensor, got list"):
        module([[1.0]])
    with pytest.raises(NotImplementedError, match=r"input: .*CPU.*meta"):
        module(x.to("meta"))
    with pytest.raises(NotImplementedError, match=r"input: .*dense.*sparse_coo"):
        module(x.to_sparse())
    with pytest.raises(NotImplementedError, match=r"weight_ih_l0: .*complex64"):
        module.to(torch.complex64)(x.to(torch.complex64))


@pytest.mark.parametrize("name", LAYERS)
def test_weights_that_do_not_fit(name: str) -> None:
    module = pair(name)[1]
    module.weight_hh_l0 = torch.nn.Parameter(torch.zeros(module.weight_hh_l0.shape, dtype=f64))
    with pytest.raises(
        RuntimeError, match=r"weight_hh_l0: expected the dtype of weight_ih_l0, torch\.float32, got torch\.float64"
    ):
        module(x)
    module.weight_hh_l0 = torch.nn.Parameter(torch.zeros(5, H))
    with pytest.raises(RuntimeError, match=r"weight_hh_l0: expected shape \[\d+, 4\], got \[5, 4\]"):
        module(x)
    del module.weight_hh_l0
    with pytest.raises(AttributeError, match="weight_hh_l0"):
        module(x)


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([1.0, 2.0], TypeError, "integers, got dtype float64"),
        ([True, False], TypeError, "integers, got dtype bool"),
        (torch.tensor([1.0, 2.0]), TypeError, "integers, got dtype float32"),
        ([1, 2, 1], ValueError, r"\[B\] = \[2\], got \[3\]"),
        (2, ValueError, r"\[B\] = \[2\], got \[\]"),
        ([1, 3], ValueError, r"lengths\[1\]: expected 0 <= length <= T = 2, got 3"),
        ([-1, 1], ValueError, r"lengths\[0\]: expected 0 <= length <= T = 2, got -1"),
        (torch.tensor([1, 2], device="meta"), NotImplementedError, "lengths: .*CPU.*meta"),
    ],
)
def test_bad_lengths(lengths: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        rt.GRU(IN, H)(x, lengths=lengths)


@pytest.mark.parametrize(
    "lengths", [np.array([5, 2, 1], ">i8"), array.array("q", [5, 2, 1]), range(1, 4), np.array([5, 2, 1], np.uint8)]
)
def test_lengths_of_any_kind(lengths: Any) -> None:
    module, x = rt.GRU(4, 6), torch.randn(5, 3, 4)
    wanted = module(x, lengths=[int(n) for n in lengths])
    assert torch.equal(module(x, lengths=lengths)[0], wanted[0])


def test_lengths_belong_to_batched_tensors() -> None:
    with pytest.raises(ValueError, match="lengths: expected None with a PackedSequence"):
        rt.GRU(IN, H)(PACKED, lengths=[2, 3])
    with pytest.raises(ValueError, match="lengths: expected None with unbatched input"):
        rt.GRU(IN, H)(torch.zeros(2, IN), lengths=[2])


# Dropout and generators -----------------------------------------------------------------------------------------------


def dropped(module: Any, seed: int, inputs: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(seed)
    return module(inputs)[0]


def test_dropout_follows_manual_seed() -> None:
    module = rt.LSTM(IN, 64, 3, dropout=0.5)
    inputs = torch.randn(5, 2, IN)
    assert torch.equal(dropped(module, 1, inputs), dropped(module, 1, inputs))
    assert not torch.equal(dropped(module, 1, inputs), dropped(module, 2, inputs))
    torch.manual_seed(1)
    assert not torch.equal(module(inputs)[0], module(inputs)[0])


def test_dropout_is_off_in_eval_mode_and_draws_nothing_where_there_is_none() -> None:
    inputs = torch.randn(5, 2, IN)
    module = rt.LSTM(IN, 64, 3, dropout=0.5).eval()
    plain = rt.LSTM(IN, 64, 3)
    plain.load_state_dict(module.state_dict())
    before = torch.random.get_rng_state()
    assert torch.equal(module(inputs)[0], plain(inputs)[0])
    assert torch.equal(torch.random.get_rng_state(), before)
    module.train()(inputs)
    assert not torch.equal(torch.random.get_rng_state(), before)


def test_dropout_zeroes_the_stated_share_and_scales_the_rest() -> None:
    """The upper layer is the identity on its input where positive, so its output shows the mask of the lower one's."""
    size, p = 128, 0.25
    module = rt.RNN(size, size, 2, "relu", bias=False, dropout=p)
    with torch.no_grad():
        for layer in range(2):
            getattr(module, f"weight_ih_l{layer}").copy_(torch.eye(size))
            getattr(module, f"weight_hh_l{layer}").zero_()
    inputs = torch.ones(20, 8, size, requires_grad=True)
    y = module(inputs)[0]
    y.sum().backward()
    kept = y != 0
    assert torch.allclose(y[kept], torch.tensor(1 / (1 - p)), rtol=4 * torch.finfo(torch.float32).eps, atol=0)
    assert torch.equal(inputs.grad, y)  # the same mask, forward and backward
    share = float((~kept).double().mean())
    assert abs(share - p) <= 5 * (p * (1 - p) / kept.numel()) ** 0.5  # five standard deviations of a binomial share


def test_dropout_of_everything() -> None:
    module = rt.GRU(IN, H, 2, dropout=1.0)
    inputs = torch.randn(3, 2, IN, requires_grad=True)
    y = module(inputs)[0]
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert torch.all(inputs.grad == 0)


# Autocast, compile, copies --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS + CELLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_computes_in_its_dtype(name: str, dtype: torch.dtype) -> None:
    module = pair(name)[1]
    inputs = torch.randn(*((5,) if name in LAYERS else ()), 2, IN, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        result = module(inputs)
        again = module(inputs.to(dtype))
    half = copy.deepcopy(module).to(dtype)(inputs.detach().to(dtype))
    for got, other, wanted in zip(tensors(result), tensors(again), tensors(half), strict=True):
        assert got.dtype == dtype
        assert torch.equal(got, wanted)
        assert torch.equal(other, wanted)
    tensors(result)[0].sum().backward()
    assert {value.grad.dtype for value in (inputs, *module.parameters())} == {torch.float32}
    module.double()
    with torch.autocast("cpu", dtype=dtype):
        assert tensors(module(inputs.double()))[0].dtype == torch.float64


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_pickle_deepcopy_and_save(name: str) -> None:
    module = pair(name)[1]
    module.freeze()
    inputs = torch.randn(5, 2, IN) if name in LAYERS else torch.randn(2, IN)
    stream = io.BytesIO()
    torch.save(module, stream)
    stream.seek(0)
    copies = [pickle.loads(pickle.dumps(module)), copy.deepcopy(module), torch.load(stream, weights_only=False)]
    for other in copies:
        assert type(other) is type(module)
        assert "_frozen" not in other.__dict__
        wanted = tensors(module.unfreeze()(inputs))
        assert all(torch.equal(a, b) for a, b in zip(tensors(other(inputs)), wanted, strict=True))
        with torch.no_grad():
            next(other.parameters()).add_(1)
        assert not torch.equal(tensors(other(inputs))[0], wanted[0])
        assert torch.equal(tensors(module(inputs))[0], wanted[0])


def test_hooks_and_data_parallel_style_replicas() -> None:
    """A replica's weights are plain tensors among its attributes."""
    module = rt.LSTM(IN, H)
    seen: list[Any] = []
    module.register_forward_hook(lambda *args: seen.append(args[2]))
    replica = module._replicate_for_data_parallel()
    for name, parameter in module.named_parameters():
        setattr(replica, name, parameter.detach() * 2)
    inputs = torch.randn(5, 2, IN)
    doubled = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in doubled.parameters():
            parameter.mul_(2)
    assert torch.equal(replica(inputs)[0], doubled(inputs)[0])
    assert len(seen) == 2


@pytest.mark.parametrize("name", LAYERS + CELLS)
def test_explain(name: str) -> None:
    """rk.explain takes these modules too, and says what runs on the composed form."""
    module = pair(name)[1]
    shape = (7, 2, IN) if name in LAYERS else (2, IN)
    said = rk.explain(module, torch.zeros(shape))
    assert said.kernel == rk.explain(module, shape).kernel
    assert said.kernel in {kernel.name for kernel in rk.kernels()}
    assert "composed of torch's operations: second derivatives, forward mode" in repr(said)
    assert "read at every call" in repr(said) and "kept by freeze()" in repr(rk.explain(module.freeze(), shape))
    with pytest.raises(ValueError, match=r"x: expected .* with I = "):
        rk.explain(module, (1, 2, 3, 4, IN))
    with pytest.raises(TypeError, match="layer: expected a layer or cell of rnnkern, got Linear"):
        rk.explain(torch.nn.Linear(1, 1), shape)


def test_grad_scaler_and_accumulation() -> None:
    """float16 under torch.amp with a scaler, gradients over two halves of a batch: the step of the whole batch."""
    module, whole = pair("LSTM")[1], pair("LSTM")[1]
    whole.load_state_dict(module.state_dict())
    x = torch.randn(5, 4, IN)
    steps = []
    for m, parts in ((module, x.split(2, 1)), (whole, (x,))):
        optimiser = torch.optim.SGD(m.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
        for part in parts:
            with torch.autocast("cpu", dtype=torch.float16):
                loss = m(part)[0].float().square().sum()
            scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        steps.append([parameter.detach().clone() for parameter in m.parameters()])
        assert scaler.get_scale() == 2.0**10
    for a, b in zip(*steps, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=8 * torch.finfo(torch.float16).eps * float(b.abs().max()))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_float32_cell_state_keeps_the_bits_of_the_whole_sequence(dtype: torch.dtype, autocast: bool) -> None:
    """A half-type LSTM takes c_0 in float32 and then gives c_n in it. In the module's dtype each call rounds c once."""
    torch.manual_seed(0)
    layer = rt.LSTM(3, 5, 2, bidirectional=False, proj_size=0)
    layer = layer if autocast else layer.to(dtype)
    x = torch.randn(6, 2, 3) if autocast else torch.randn(6, 2, 3).to(dtype)
    h_0, wide = torch.zeros(2, 2, 5, dtype=dtype), torch.zeros(2, 2, 5)

    def call(x: Any, state: Any) -> Any:
        with torch.autocast("cpu", dtype, enabled=autocast), torch.no_grad():
            return layer(x, state)

    y, (h_n, c_n) = call(x, (h_0, wide))
    assert (y.dtype, h_n.dtype, c_n.dtype) == (dtype, dtype, torch.float32)
    state, pieces = (h_0, wide), []
    for step in x.split(1):
        piece, state = call(step, state)
        pieces.append(piece)
    assert torch.equal(torch.cat(pieces), y)
    assert torch.equal(state[0], h_n) and torch.equal(state[1], c_n)
    # torch's own dtypes: c is rounded at each border, by half an eps of its size; forget gates only shrink that.
    state, pieces = (h_0, wide.to(dtype)), []
    for step in x.split(1):
        piece, state = call(step, state)
        pieces.append(piece)
    assert state[1].dtype == dtype
    bound = 6 * torch.finfo(dtype).eps * float(c_n.abs().max().clamp(min=1))
    assert (torch.cat(pieces).float() - y.float()).abs().max() <= bound
    cell = rt.LSTMCell(3, 5).to(dtype)
    with torch.no_grad():
        assert cell(x[0].to(dtype), (h_0[0], wide[0]))[1].dtype == torch.float32
        assert cell(x[0].to(dtype), (h_0[0], wide[0].to(dtype)))[1].dtype == dtype


def test_gradients_through_a_float32_cell_state() -> None:
    """Kernels, the composed form (second derivatives) and a graph agree on dtypes and values."""
    torch.manual_seed(0)
    layer = rt.LSTM(3, 5).bfloat16()
    x, h_0 = torch.randn(4, 2, 3).bfloat16().requires_grad_(), torch.zeros(1, 2, 5).bfloat16()
    c_0 = torch.randn(1, 2, 5).requires_grad_()
    y, (_, c_n) = layer(x, (h_0, c_0))
    dx, dc = torch.autograd.grad(y.float().square().sum() + c_n.square().sum(), (x, c_0), create_graph=True)
    assert (dx.dtype, dc.dtype) == (torch.bfloat16, torch.float32)
    (dx.float().square().sum() + dc.square().sum()).backward()
    assert c_0.grad is not None and c_0.grad.dtype == torch.float32 and bool(c_0.grad.isfinite().all())
    compiled = torch.compile(lambda: layer(x, (h_0, c_0)), backend="aot_eager", fullgraph=True)
    again, (_, c_again) = compiled()
    assert torch.equal(again, y) and torch.equal(c_again, c_n) and c_again.dtype == torch.float32
