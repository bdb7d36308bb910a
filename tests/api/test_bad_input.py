"""Bad input: an exception before any work that names the argument, what was expected and what came."""

from __future__ import annotations

import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import rnnkern as rk

T, B, IN, H = 4, 3, 5, 6
F32 = np.float32


def zeros(*shape: int, dtype: Any = F32) -> Any:
    return np.zeros(shape, dtype)


def swapped(array: Any) -> Any:
    return array.astype(array.dtype.newbyteorder())


class OnCuda:
    """An array that says it lives on the second GPU."""

    shape, ndim, dtype = (T, B, IN), 3, np.dtype(F32)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, 1)

    def __dlpack__(self, **kwargs: Any) -> Any:
        raise AssertionError("a device array must be refused, not fetched")


CONSTRUCT = [
    (lambda: rk.LSTM(0, H), ValueError, "input_size: expected at least 1, got 0"),
    (lambda: rk.LSTM(IN, -2), ValueError, "hidden_size: expected at least 1, got -2"),
    (lambda: rk.LSTM(IN, H, 0), ValueError, "num_layers: expected at least 1, got 0"),
    (lambda: rk.LSTM(IN, 2.0), TypeError, "hidden_size: expected an int, got float"),
    (lambda: rk.LSTM(True, H), TypeError, "input_size: expected an int, got True"),
    (lambda: rk.LSTM(IN, H, bias=1), TypeError, "bias: expected a bool, got int"),
    (lambda: rk.GRU(IN, H, batch_first="no"), TypeError, "batch_first: expected a bool, got str"),
    (lambda: rk.GRU(IN, H, bidirectional=2), TypeError, "bidirectional: expected a bool, got int"),
    (lambda: rk.GRU(IN, H, 2, dropout=1.5), ValueError, r"dropout: expected a probability in \[0, 1\], got 1.5"),
    (lambda: rk.GRU(IN, H, 2, dropout=float("nan")), ValueError, "dropout: .*got nan"),
    (lambda: rk.GRU(IN, H, 2, dropout=True), ValueError, "dropout: .*got True"),
    (lambda: rk.RNN(IN, H, 1, "sigmoid"), ValueError, "nonlinearity: expected 'tanh' or 'relu', got 'sigmoid'"),
    (lambda: rk.RNN(IN, H, 1, True), ValueError, "nonlinearity: .*got True"),
    (lambda: rk.LSTM(IN, H, dtype="int8"), TypeError, "dtype: expected one of float32, .*got 'int8'"),
    (lambda: rk.LSTM(IN, H, dtype=torch.complex64), TypeError, "dtype: .*got 'complex64'"),
    (lambda: rk.LSTM(IN, H, dtype=object()), TypeError, "dtype: "),
    (lambda: rk.LSTM(IN, H, device="abacus"), ValueError, "device: expected 'cpu', 'cuda' or 'cuda:1', got 'abacus'"),
    (lambda: rk.LSTM(IN, H, seed=-1), ValueError, "seed: expected 0 to 18446744073709551615, got -1"),
    (lambda: rk.LSTM(IN, H, seed="x"), TypeError, "seed: expected an int, got str"),
    (lambda: rk.LSTM(IN, H, proj_size=H), ValueError, f"proj_size: expected less than hidden_size {H}, got {H}"),
    (lambda: rk.LSTM(IN, H, proj_size=-1), ValueError, "proj_size: expected at least 0, got -1"),
    (lambda: rk.LSTM(IN, H, peephole="yes"), TypeError, "peephole: expected a bool, got str"),
    (lambda: rk.LSTM(IN, 6, heads=4), ValueError, "heads: expected a divisor of hidden_size 6, got 4"),
    (lambda: rk.LSTM(IN, H, heads=0), ValueError, "heads: expected at least 1, got 0"),
    (lambda: rk.GRU(IN, H, clip=-1.0), ValueError, "clip: expected a bound above 0 or None, got -1.0"),
    (lambda: rk.GRU(IN, H, clip=True), TypeError, "clip: expected a number, got bool"),
    (lambda: rk.RNN(IN, H, zoneout=1.5), ValueError, "zoneout: expected a probability in \\[0, 1\\], got 1.5"),
    (lambda: rk.RNN(IN, H, zoneout=(0.1, 0.2)), ValueError, "zoneout: RNN has no c, got \\(0.1, 0.2\\)"),
    (lambda: rk.LSTM(IN, H, zoneout=(0.1,)), ValueError, "zoneout: expected a probability, or two"),
    (lambda: rk.LSTM(IN, H, recurrent_dropout=-0.5), ValueError, "recurrent_dropout: expected a probability"),
    (lambda: rk.LSTM(IN, H, activations="Tanh"), TypeError, "activations: expected a sequence of 3"),
    (lambda: rk.GRU(IN, H, activations=("Tanh",)), ValueError, "activations: expected 2 \\(f of r z, g of n\\), got 1"),
    (lambda: rk.RNN(IN, H, activations=("Gelu",)), ValueError, "activations\\[0\\]: expected one of Relu, Tanh,"),
    (lambda: rk.RNN(IN, H, activations=(("Relu", 0.1),)), ValueError, "activations\\[0\\]: Relu takes nothing"),
    (
        lambda: rk.RNN(IN, H, activations=(("Elu", "x"),)),
        TypeError,
        "activations\\[0\\]\\[1\\]: expected a number, got str",
    ),
    (lambda: rk.LSTM(IN, H, reverse=True, bidirectional=True), ValueError, "reverse: expected False"),
    # What no kernel does together is refused by both names.
    (
        lambda: rk.GRU(IN, H, layer_norm=True, reset_after=False),
        NotImplementedError,
        "layer_norm and reset_after=False",
    ),
    (lambda: rk.LSTM(IN, 6, layer_norm=True, heads=2), NotImplementedError, "layer_norm and heads"),
    (lambda: rk.LSTM(IN, 6, proj_size=2, heads=2), NotImplementedError, "proj_size and heads"),
    (lambda: rk.RNN(IN, 6, independent=True, heads=2), NotImplementedError, "independent and heads"),
    (lambda: rk.RNN(IN, H, independent=True, layer_norm=True), NotImplementedError, "layer_norm and independent"),
    (lambda: rk.RNNCell(IN, H, True, "gelu"), ValueError, "nonlinearity: .*'gelu'"),
    (lambda: rk.GRUCell(IN, H, bias=None), TypeError, "bias: expected a bool, got NoneType"),
]


@pytest.mark.parametrize(("build", "kind", "words"), CONSTRUCT, ids=[words for _, _, words in CONSTRUCT])
def test_constructors(build: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        build()


def test_neutral_options_are_accepted() -> None:
    rk.LSTM(IN, H, proj_size=0, peephole=False, coupled=False, clip=None, activations=None, heads=1, zoneout=0)
    rk.GRU(IN, H, reset_after=True, layer_norm=False, recurrent_dropout=0.0)


def test_useless_dropout_warns_as_torch_does() -> None:
    with pytest.warns(UserWarning, match="dropout=0.5 has no effect"):
        rk.LSTM(IN, H, dropout=0.5)


X = zeros(T, B, IN)
STATE = (zeros(1, B, H), zeros(1, B, H))
CALLS: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"x": zeros(IN)}, ValueError, r"x: expected \[T, B, I\] or unbatched \[T, I\], got 1 axes"),
    ({"x": zeros(1, T, B, IN)}, ValueError, "x: .*got 4 axes"),
    ({"x": zeros(T, B, IN + 1)}, ValueError, r"x: expected shape \[T, B, I\] = \[4, 3, 5\], got \[4, 3, 6\]"),
    ({"x": zeros(T, B, IN, dtype=np.float64)}, TypeError, "x: expected dtype float32, got float64"),
    ({"x": zeros(T, B, IN, dtype=ml_dtypes.bfloat16)}, TypeError, "x: expected dtype float32, got bfloat16"),
    ({"x": zeros(T, B, IN, dtype=np.int32)}, TypeError, "x: expected dtype float32, got int32"),
    ({"x": zeros(T, B, IN, dtype=object)}, TypeError, "x: expected dtype float32, got object"),
    ({"x": swapped(X)}, TypeError, "x: expected native byte order, got byte-swapped"),
    ({"x": X.tolist()}, TypeError, "x: expected an array .*got list"),
    ({"x": None}, TypeError, "x, gx: expected one of them, got neither"),
    ({"x": np.ma.masked_array(X)}, TypeError, "x: .*masked"),
    ({"x": torch.zeros(T, B, IN, requires_grad=True)}, TypeError, r"x: .*requires grad.*rnnkern\.torch"),
    ({"x": torch.zeros(T, B, IN, dtype=torch.complex64).conj().imag}, TypeError, r"x: .*negation bit.*resolve_neg"),
    ({"x": torch.zeros(T, B, IN, dtype=torch.complex64).conj()}, TypeError, "x: .*conjugate bit"),
    ({"x": torch._efficientzerotensor((T, B, IN))}, TypeError, "x: .*without memory"),
    ({"x": torch.zeros(T, B, IN).double()}, TypeError, "x: expected dtype float32, got float64"),
    ({"x": torch.zeros(T, B, IN, device="meta")}, TypeError, "x: expected an array that DLPack can carry"),
    ({"x": OnCuda()}, ValueError, "x: expected an array in host memory, got one on cuda:1"),
    ({"state": STATE[0]}, TypeError, r"state: expected a tuple of two arrays \(h, c\), got ndarray"),
    ({"state": (STATE[0],)}, TypeError, "state: expected a tuple of two arrays .*got 1 of them"),
    ({"state": (STATE[0], None)}, TypeError, "state: .*got None for c"),
    (
        {"state": (zeros(2, B, H), STATE[1])},
        ValueError,
        r"state\[0\] \(h\): expected shape \[L\*D, B, H\] = \[1, 3, 6\]",
    ),
    ({"state": (STATE[0], zeros(1, B + 1, H))}, ValueError, r"state\[1\] \(c\): .*got \[1, 4, 6\]"),
    ({"state": (STATE[0], zeros(1, B, H, dtype=np.float64))}, TypeError, r"state\[1\] \(c\): expected dtype float32"),
    ({"state": (swapped(STATE[0]), STATE[1])}, TypeError, r"state\[0\] \(h\): .*byte-swapped"),
    ({"state": (STATE[0], OnCuda())}, ValueError, r"state\[1\] \(c\): .*cuda:1"),
    ({"lengths": [1, 2, T + 1]}, ValueError, r"lengths\[2\]: expected 0 <= length <= T = 4, got 5"),
    ({"lengths": np.array([1, -1, 0])}, ValueError, r"lengths\[1\]: .*got -1"),
    ({"lengths": np.array([1, 2**64 - 1, 0], np.uint64)}, ValueError, r"lengths\[1\]: .*got 18446744073709551615"),
    ({"lengths": [1, 2]}, ValueError, r"lengths: expected shape \[B\] = \[3\], got \[2\]"),
    ({"lengths": np.ones((B, 1), int)}, ValueError, r"lengths: .*got \[3, 1\]"),
    ({"lengths": 3}, ValueError, r"lengths: expected shape \[B\]"),
    ({"lengths": np.ones(B)}, TypeError, "lengths: expected integers, got dtype float64"),
    ({"lengths": np.ones(B, bool)}, TypeError, "lengths: expected integers, got dtype bool"),
    ({"lengths": swapped(np.ones(B, np.int64))}, TypeError, "lengths: .*byte-swapped"),
    ({"lengths": "123"}, TypeError, "lengths: expected an array .*got str"),
    ({"out": zeros(T, B, H + 1)}, ValueError, r"out: expected shape \[T, B, D\*H\] = \[4, 3, 6\], got \[4, 3, 7\]"),
    ({"out": zeros(T, B, H, dtype=np.float64)}, TypeError, "out: expected dtype float32, got float64"),
    ({"out": np.broadcast_to(F32(0), (T, B, H))}, ValueError, "out: expected a writable array"),
    (
        {"out": np.lib.stride_tricks.as_strided(zeros(H), (T, B, H), (0, 0, 4))},
        ValueError,
        "out: expected one place per element",
    ),
]


@pytest.mark.parametrize("method", ["__call__", "forward"])
@pytest.mark.parametrize(
    ("change", "kind", "words"), CALLS, ids=[f"{next(iter(c))}-{i}" for i, (c, _, _) in enumerate(CALLS)]
)
def test_calls(method: str, change: dict[str, Any], kind: Any, words: str) -> None:
    layer = rk.LSTM(IN, H, seed=0)
    arguments = {"x": X, "state": STATE, "lengths": None} | change
    out = change.get("out")
    before = None if out is None else np.array(out)
    with pytest.raises(kind, match=words):
        getattr(layer, method)(arguments.pop("x"), arguments.pop("state"), **arguments)
    assert before is None or np.array_equal(before, out)
    assert layer.call == 0


TENSORS = [
    (torch.zeros(T, B, IN, requires_grad=True), "requires grad"),
    (torch.zeros(T, B, IN, dtype=torch.complex64).conj().imag, "negation bit"),
    (torch._efficientzerotensor((T, B, IN)), "without memory"),
    (torch.nn.Parameter(torch.zeros(T, B, IN)), "requires grad"),
]


@pytest.mark.parametrize("state", [None, tuple(torch.zeros(1, B, H) for _ in range(2))], ids=["zeros", "tensors"])
@pytest.mark.parametrize(("x", "words"), TENSORS, ids=[words for _, words in TENSORS[:3]] + ["parameter"])
def test_tensors_that_are_not_their_memory(x: torch.Tensor, words: str, state: Any) -> None:
    """With no NumPy array in the call: the plain layers' short way must not take them."""
    with pytest.raises(TypeError, match=f"x: .*{words}"):
        rk.LSTM(IN, H, seed=0)(x, state)
    if x.requires_grad:
        with pytest.raises(TypeError, match=r"state\[0\].*requires grad"):
            rk.LSTM(IN, H, seed=0)(x.detach(), (torch.zeros(1, B, H, requires_grad=True), torch.zeros(1, B, H)))


def test_overlapping_out() -> None:
    layer = rk.LSTM(H, H, seed=0)
    x = zeros(T + 1, B, H)
    for out, name in ((x[:T], "x"), (x[1:], "x")):
        with pytest.raises(ValueError, match=rf"out: .*overlaps {name}"):
            layer(x[:T], out=out)
    state = zeros(T, B, H)
    with pytest.raises(ValueError, match=r"out: .*overlaps state"):
        layer(x[:T], (state[:1], zeros(1, B, H)), out=state)


def test_out_with_torchs_negation_bit() -> None:
    """Written through DLPack, its values would come out with the wrong sign."""
    memory = torch.ones(T, B, H, dtype=torch.complex64)
    with pytest.raises(TypeError, match=r"out: .*negation bit"):
        rk.LSTM(IN, H, seed=0)(X, out=memory.conj().imag)
    assert torch.equal(memory, torch.ones_like(memory))


def test_unbatched_shapes() -> None:
    layer = rk.GRU(IN, H, seed=0)
    x = zeros(T, IN)
    with pytest.raises(ValueError, match=r"state: expected shape \[L\*D, H\] = \[1, 6\], got \[1, 1, 6\]"):
        layer(x, zeros(1, 1, H))
    with pytest.raises(ValueError, match=r"lengths: expected shape \[\] or \[1\] for unbatched"):
        layer(x, lengths=[1, 2])
    with pytest.raises(ValueError, match=r"lengths\[0\]: .*got 5"):
        layer(x, lengths=5)
    with pytest.raises(TypeError, match="state: expected one array h, got a tuple of 2"):
        layer(x, (zeros(1, H), zeros(1, H)))


def test_batch_first_names_the_layout() -> None:
    layer = rk.GRU(IN, H, batch_first=True, seed=0)
    with pytest.raises(ValueError, match=r"x: expected shape \[B, T, I\]"):
        layer(zeros(B, T, IN + 1))
    with pytest.raises(ValueError, match=r"out: expected shape \[B, T, D\*H\] = \[3, 4, 6\], got \[4, 3, 6\]"):
        layer(zeros(B, T, IN), out=zeros(T, B, H))


BACKWARD: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"tape": None}, TypeError, "tape: expected the tape that forward returned, got NoneType"),
    ({"dy": zeros(T, B, H + 1)}, ValueError, r"dy: expected shape \[T, B, D\*H\] = \[4, 3, 6\], got \[4, 3, 7\]"),
    ({"dy": zeros(T, B, H, dtype=np.float64)}, TypeError, "dy: expected dtype float32, got float64"),
    ({"dy": swapped(zeros(T, B, H))}, TypeError, "dy: .*byte-swapped"),
    ({"dy": OnCuda()}, ValueError, "dy: .*cuda:1"),
    ({"dstate": STATE[0]}, TypeError, "dstate: expected a tuple of two arrays"),
    ({"dstate": (zeros(1, B, H + 1), None)}, ValueError, r"dstate\[0\] \(h\): .*got \[1, 3, 7\]"),
    ({"dstate": (None, zeros(1, B, H, dtype=np.float64))}, TypeError, r"dstate\[1\] \(c\): expected dtype float32"),
]


@pytest.mark.parametrize(("change", "kind", "words"), BACKWARD, ids=[words for _, _, words in BACKWARD])
def test_backward(change: dict[str, Any], kind: type[Exception], words: str) -> None:
    layer = rk.LSTM(IN, H, seed=0)
    _, _, tape = layer.forward(X)
    arguments = {"tape": tape, "dy": zeros(T, B, H), "dstate": None} | change
    with pytest.raises(kind, match=words):
        layer.backward(**arguments)


def test_tape_of_a_cell_is_not_a_layers() -> None:
    cell, layer = rk.GRUCell(IN, H), rk.GRU(IN, H)
    _, tape = cell.forward(zeros(B, IN))
    with pytest.raises(ValueError, match=r"tape: .*another GRUCell"):
        layer.backward(tape, None)


PARAMETERS: list[tuple[Any, type[Exception], str]] = [
    ({"weight_hh_l7": zeros(3)}, ValueError, "unexpected 'weight_hh_l7'"),
    ({1: zeros(3)}, ValueError, "unexpected 1"),
    (
        {"weight_hh_l0": zeros(3 * H, H)},
        ValueError,
        r"\['weight_hh_l0'\]: expected shape weight_hh_l0 = \[24, 6\], got \[18, 6\]",
    ),
    ({"weight_hh_l0": zeros(4 * H, H, dtype=np.float64)}, TypeError, r"\['weight_hh_l0'\]: expected dtype float32"),
    ({"weight_hh_l0": swapped(zeros(4 * H, H))}, TypeError, "byte-swapped"),
    ({"weight_hh_l0": [[0.0]]}, TypeError, "expected an array .*got list"),
    ({"weight_hh_l0": torch.nn.Parameter(torch.zeros(4 * H, H))}, TypeError, "requires grad"),
    ([("weight_hh_l0", zeros(4 * H, H))], TypeError, "expected a mapping of names to arrays, got list"),
]


@pytest.mark.parametrize(("params", "kind", "words"), PARAMETERS, ids=[words for _, _, words in PARAMETERS])
def test_parameters(params: Any, kind: type[Exception], words: str) -> None:
    layer = rk.LSTM(IN, H, seed=0)
    before = layer.params
    with pytest.raises(kind, match=words):
        layer.update(params)
    whole = layer.state_dict()
    with pytest.raises(kind, match=words):
        layer.load_state_dict(whole | params if isinstance(params, dict) else params)
    assert layer.params is before  # not even swapped for equal values


def test_state_dict_of_another_shape_names_the_difference() -> None:
    layer = rk.LSTM(IN, H, seed=0)
    with pytest.raises(ValueError, match=r"missing weight_hh_l0, bias_ih_l0, bias_hh_l0$"):
        layer.load_state_dict({"weight_ih_l0": zeros(4 * H, IN)})
    with pytest.raises(ValueError, match="unexpected 'weight_ih_l0_reverse'"):
        layer.load_state_dict(rk.LSTM(IN, H, bidirectional=True).state_dict())


STEPS: list[tuple[Any, Any, type[Exception], str]] = [
    (zeros(B, IN + 1), (zeros(B, H), zeros(B, H)), ValueError, r"x: expected shape \[B, I\] = \[3, 5\], got \[3, 6\]"),
    (zeros(T, B, IN), (zeros(B, H), zeros(B, H)), ValueError, r"x: expected \[B, I\] or \[I\], got 3 axes"),
    (zeros(B, IN, dtype=np.float64), (zeros(B, H), zeros(B, H)), TypeError, "x: expected dtype float32, got float64"),
    (zeros(B, IN), None, TypeError, "state: expected a tuple of two arrays .*got NoneType"),
    (zeros(B, IN), zeros(B, H), TypeError, "state: expected a tuple of two arrays"),
    (zeros(B, IN), (zeros(B, H), None), TypeError, "state: .*got None for c"),
    (
        zeros(B, IN),
        (zeros(B + 1, H), zeros(B, H)),
        ValueError,
        r"state\[0\] \(h\): .*\[B, H\] = \[3, 6\], got \[4, 6\]",
    ),
    (
        zeros(B, IN),
        (zeros(B, H), zeros(B, H, dtype=np.float64)),
        TypeError,
        r"state\[1\] \(c\): expected dtype float32",
    ),
    (zeros(B, IN), (zeros(B, H), np.broadcast_to(F32(0), (B, H))), ValueError, r"state\[1\] \(c\): .*read-only"),
    (zeros(B, IN), (swapped(zeros(B, H)), zeros(B, H)), TypeError, r"state\[0\] \(h\): .*byte-swapped"),
    (zeros(B, IN), (zeros(B, H).tolist(), zeros(B, H)), TypeError, r"state\[0\] \(h\): expected an array .*got list"),
    (
        zeros(IN),
        (zeros(1, H), zeros(1, H)),
        ValueError,
        r"state\[0\] \(h\): expected shape \[H\] = \[6\], got \[1, 6\]",
    ),
]


@pytest.mark.parametrize(("x", "state", "kind", "words"), STEPS, ids=[words for *_, words in STEPS])
def test_steps(x: Any, state: Any, kind: type[Exception], words: str) -> None:
    cell = rk.LSTMCell(IN, H, seed=0)
    with pytest.raises(kind, match=words):
        cell.step_(x, state)


def frozen(*shape: int) -> np.ndarray[Any, Any]:
    array = zeros(*shape)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("x", "h", "c", "kind", "words"),
    [
        (zeros(B, IN + 1), zeros(B, H), zeros(B, H), ValueError, "x: expected shape"),
        (zeros(B, IN).astype("f8"), zeros(B, H), zeros(B, H), TypeError, "x: expected dtype"),
        (zeros(B, IN), zeros(B, H).astype("f2"), zeros(B, H), TypeError, r"\(h\): expected dtype"),
        (zeros(B, IN), zeros(B, H), zeros(B + 1, H), ValueError, r"\(c\): expected shape"),
        (zeros(B, IN), frozen(B, H), zeros(B, H), ValueError, r"\(h\): .*writable"),
        (np.ma.masked_array(zeros(B, IN)), zeros(B, H), zeros(B, H), TypeError, "x: .*mask"),
    ],
)
def test_steps_after_a_good_one(x: Any, h: Any, c: Any, kind: type[Exception], words: str) -> None:
    """The short way of later steps (Stepper.try_step) takes nothing that the first step would refuse."""
    cell = rk.LSTMCell(IN, H, seed=0)
    cell.step_(zeros(B, IN), (zeros(B, H), zeros(B, H)))
    with pytest.raises(kind, match=words):
        cell.step_(x, (h, c))
    both = zeros(B, H)
    with pytest.raises(ValueError, match="overlaps"):
        cell.step_(zeros(B, IN), (both, both))


def test_steps_on_shared_memory() -> None:
    cell = rk.RNNCell(H, H, seed=0)
    both = zeros(B, H)
    with pytest.raises(ValueError, match="state: expected memory of its own, got an array that overlaps x"):
        cell.step_(both, both)
    lstm = rk.LSTMCell(IN, H, seed=0)
    with pytest.raises(ValueError, match=r"state\[1\] \(c\): .*overlaps state\[0\] \(h\)"):
        lstm.step_(zeros(B, IN), (both, both))


def test_cells() -> None:
    cell = rk.GRUCell(IN, H, seed=0)
    with pytest.raises(ValueError, match=r"x: expected \[B, I\] or \[I\], got 3 axes"):
        cell(X)
    with pytest.raises(ValueError, match=r"state: expected shape \[B, H\] = \[3, 6\], got \[6\]"):
        cell(zeros(B, IN), zeros(H))
    with pytest.raises(TypeError, match="state: expected one array h, got a tuple of 2"):
        cell(zeros(B, IN), (zeros(B, H), zeros(B, H)))


def test_threads() -> None:
    before = rk.get_num_threads()
    for bad, kind in ((0, ValueError), (-3, ValueError), (2**40, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(kind, match="threads: "):
            rk.set_num_threads(bad)
    assert rk.get_num_threads() == before


def test_the_native_byte_order_by_its_name() -> None:
    """As files of HDF5 and NumPy spell it: "<" on a little-endian machine is no other order than "="."""

    def named(array: Any) -> Any:
        spelled = array.dtype.newbyteorder("<" if sys.byteorder == "little" else ">")
        return np.frombuffer(array.tobytes(), spelled).reshape(array.shape)

    layer, x = rk.LSTM(IN, H, seed=0), np.random.default_rng(0).standard_normal((T, B, IN)).astype(F32)
    state = zeros(1, B, H), zeros(1, B, H)
    mask, reset, lengths = zeros(T, B, dtype=bool), zeros(T, B, dtype=bool), np.array([4, 0, 2])
    mask[:2] = reset[1] = True
    wanted = layer(x, state, lengths=lengths, mask=mask, reset=reset)[0]
    spelled = tuple(named(part) for part in state)
    assert spelled[0].dtype.byteorder in "<>|"
    got = layer(named(x), spelled, lengths=named(lengths), mask=named(mask), reset=named(reset))[0]
    assert np.array_equal(got, wanted)
    out = np.ndarray((T, B, H), named(x).dtype)
    layer(named(x), spelled, lengths=named(lengths), mask=mask, reset=reset, out=out)
    assert np.array_equal(out, wanted)
    y, _, tape = layer.forward(named(x))
    grads = layer.backward(tape, named(np.ones_like(y)))
    assert np.array_equal(grads.x, layer.backward(tape, np.ones_like(y)).x)
    other = rk.LSTM(IN, H, seed=1)
    other.update({name: named(value) for name, value in layer.state_dict().items()})
    assert np.array_equal(other(x)[0], layer(x)[0])
    cell = rk.LSTMCell(IN, H, seed=0)
    assert np.array_equal(cell(named(x[0]), (named(zeros(B, H)), named(zeros(B, H))))[0], cell(x[0])[0])
    arrays = rk.convert.to_system("keras", "lstm", {name: named(v) for name, v in layer.state_dict().items()})
    back = rk.convert.from_system("keras", "lstm", [named(array) for array in arrays])
    assert back.keys() == layer.state_dict().keys()
