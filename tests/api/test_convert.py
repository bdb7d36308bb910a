"""rnnkern.convert: there and back, gate orders spelled out, and what is refused. Outputs:
test_convert_systems.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

import rnnkern as rk
from convert_cases import CASES, DTYPES, GATES, Array, Case, H, I, P, options, state_dict
from rnnkern.convert import from_system, to_system
from rnnkern.weights.layouts import SYSTEMS, rows


def leaves(arrays: Any) -> list[Array]:
    if isinstance(arrays, (list, Mapping)):
        inner = arrays.values() if isinstance(arrays, Mapping) else arrays
        return [leaf for own in inner for leaf in leaves(own)]
    return [arrays]


def same_network(case: Case, got: Mapping[str, Array], wanted: Mapping[str, Array]) -> None:
    """Equal parameters, but that biases which are only ever added may be split differently."""
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype and got[name].shape == value.shape, name
        if not name.startswith("bias"):
            assert np.array_equal(got[name], value), name
    for name in [name for name in wanted if name.startswith("bias_ih")]:
        other = name.replace("_ih", "_hh")
        assert np.array_equal(got[name] + got[other], wanted[name] + wanted[other]), name
        if case.cell == "gru" and case.reset_after:
            assert np.array_equal(got[other][2 * H :], wanted[other][2 * H :]), other


def test_the_cases_are_all_the_table_has() -> None:
    have = {(case.system, case.cell, case.reset_after) for case in CASES}
    table = {(system, key.split()[0], "False" not in key) for system, found in SYSTEMS.items() for key in found.cells}
    assert have == table
    for system, cell, after in table:  # measure() reads H and I from the first row
        assert rows(system, cell if after else "gru reset_after=False")[0].parts[0].parameter == "weight_ih"
    assert all(f'"{system}"' in str(to_system.__doc__) for system in SYSTEMS)


@pytest.mark.parametrize(("num_layers", "directions"), [(1, 1), (1, 2), (2, 1), (2, 2)], ids=lambda n: str(n))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_there_and_back(case: Case, num_layers: int, directions: int) -> None:
    """Exactly, in every dtype: the data are such that the sums of biases are exact."""
    for dtype in DTYPES.values():
        params = state_dict(case, num_layers, directions, dtype)
        before = {name: value.copy() for name, value in params.items()}
        arrays = to_system(case.system, case.cell, params, **options(case, num_layers, directions))
        back = from_system(case.system, case.cell, arrays, **options(case, num_layers, directions))
        same_network(case, back, params)
        assert {leaf.dtype for leaf in leaves(arrays)} == {np.dtype(dtype)}
        assert all(leaf.flags.c_contiguous for leaf in [*leaves(arrays), *back.values()])
        for leaf in leaves(arrays):
            leaf += leaf.dtype.type(1)  # writable, and nobody else's memory
        assert all(np.array_equal(params[name], value) for name, value in before.items())
        same_network(case, back, params)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_from_there_and_back(case: Case) -> None:
    """The system's own arrays come back bit for bit, whatever their values: one bias plus zero is that bias."""
    params = {name: value + 1e-3 for name, value in state_dict(case, 2, 2).items()}
    if case.system in ("nnx", "madmom", "lasagne") and case.cell == "gru":
        params |= {name: value * 0 for name, value in params.items() if name.startswith("bias_hh")}
    bias = {"forget_bias": 0.5} if (case.system, case.cell) == ("tensorflow_block", "lstm") else {}
    arrays = to_system(case.system, case.cell, params, **options(case, 2, 2), **bias)
    again = to_system(
        case.system, case.cell, from_system(case.system, case.cell, arrays, **options(case, 2, 2), **bias),
        **options(case, 2, 2), **bias,
    )  # fmt: skip
    eps = np.finfo(np.float64).eps if bias else 0.0  # b - 0.5 + 0.5 rounds twice, values up to 2.5
    for got, wanted in zip(leaves(again), leaves(arrays), strict=True):
        assert np.abs(got - wanted).max() <= 4 * eps


@pytest.mark.parametrize("case", CASES, ids=str)
def test_without_biases(case: Case) -> None:
    """Where the system's are optional they stay away; elsewhere they are zero, and so they come back."""
    params = {name: value for name, value in state_dict(case, 2, 2).items() if not name.startswith("bias")}
    arrays = to_system(case.system, case.cell, params, **options(case, 2, 2))
    back = from_system(case.system, case.cell, arrays, **options(case, 2, 2))
    assert all(np.array_equal(back[name], value) for name, value in params.items())
    added = [back[name] for name in back if name not in params]
    assert bool(added) == (case.system not in ("keras", "onnx", "cudnn", "mlx", "lasagne")) and not any(
        map(np.any, added)
    )


# --- spelled out ------------------------------------------------------------


def marked(cell: str, extras: Mapping[str, Any] | None = None) -> dict[str, Array]:
    """A network with 10, 20, ... in the input side's gates (torch's order), 11, 21, ... in the recurrent side's."""
    gates = 10.0 * np.repeat(np.arange(1, GATES[cell] + 1), H)
    ones = np.ones((GATES[cell] * H, 1))
    weights = {"weight_ih_l0": gates[:, None] * np.ones((1, I)), "weight_hh_l0": (gates[:, None] + ones) * np.ones(H)}
    return weights | {"bias_ih_l0": gates.copy(), "bias_hh_l0": gates + 1} | dict(extras or {})


def gates(array: Array, axis: int) -> list[float]:
    """The value of each gate's block along an axis; every block must be of one value."""
    blocks = np.split(array, array.shape[axis] // H, axis)
    assert all((block == block.flat[0]).all() for block in blocks)
    return [float(block.flat[0]) for block in blocks]


PEEPHOLE = np.repeat([[1.0], [2.0], [4.0]], H, axis=1)  # i f o


def test_lstm_gates_spelled_out() -> None:
    """i = 10, f = 20, g = 30, o = 40, biases 10 + 11, ...; from each system's documentation."""
    keras = to_system("keras", "lstm", marked("lstm"))  # i f c o
    assert [a.shape for a in keras] == [(I, 4 * H), (H, 4 * H), (4 * H,)]
    assert gates(keras[0], 1) == [10, 20, 30, 40] and gates(keras[1], 1) == [11, 21, 31, 41]
    assert gates(keras[2], 0) == [21, 41, 61, 81]
    (onnx,) = to_system("onnx", "lstm", marked("lstm", {"peephole_l0": PEEPHOLE}))  # W[iofc], P[iof]
    assert {k: v.shape for k, v in onnx.items()} == {
        "W": (1, 4 * H, I),
        "R": (1, 4 * H, H),
        "B": (1, 8 * H),
        "P": (1, 3 * H),
    }
    assert gates(onnx["W"][0], 0) == [10, 40, 20, 30] and gates(onnx["R"][0], 0) == [11, 41, 21, 31]
    assert gates(onnx["B"][0], 0) == [10, 40, 20, 30, 11, 41, 21, 31] and gates(onnx["P"][0], 0) == [1, 4, 2]
    (tf,) = to_system("tensorflow_block", "lstm", marked("lstm", {"peephole_l0": PEEPHOLE}))  # icfo
    assert gates(tf["w"][:I], 1) == [10, 30, 20, 40] and gates(tf["w"][I:], 1) == [11, 31, 21, 41]
    assert gates(tf["b"], 0) == [21, 61, 41 - 1, 81]  # forget_bias, 1, is added at run time
    assert [tf[name][0] for name in ("wci", "wcf", "wco")] == [1, 2, 4]
    (haste,) = to_system("haste", "lstm", marked("lstm"))  # i,g,f,o
    assert gates(haste["kernel"], 1) == [10, 30, 20, 40] and gates(haste["bias"], 0) == [21, 61, 41, 81]
    projection = {"weight_hr_l0": np.arange(P * H).reshape(P, H) + 0.0, "peephole_l0": PEEPHOLE}
    narrow = {name: v[:, :P] if name == "weight_hh_l0" else v for name, v in marked("lstm", projection).items()}
    (onednn,) = to_system("onednn", "lstm", narrow)  # ldigo: i f c~ o
    assert onednn["weights_layer"].shape == (1, 1, I, 4, H) and onednn["weights_iter"].shape == (1, 1, P, 4, H)
    assert onednn["weights_layer"][0, 0, 0, :, 0].tolist() == [10, 20, 30, 40]
    assert onednn["bias"].shape == (1, 1, 4, H) and onednn["bias"][0, 0, :, 0].tolist() == [21, 41, 61, 81]
    assert onednn["weights_peephole"][0, 0, :, 0].tolist() == [1, 2, 4]
    assert np.array_equal(onednn["weights_projection"][0, 0], projection["weight_hr_l0"].T)
    (flax,) = to_system("flax", "lstm", marked("lstm"))
    assert {k: v["kernel"][0, 0] for k, v in flax.items()} == dict(
        zip(flax, [10, 20, 30, 40, 11, 21, 31, 41], strict=True)
    )
    assert list(flax) == ["ii", "if", "ig", "io", "hi", "hf", "hg", "ho"]
    assert [flax["h" + gate]["bias"][0] for gate in "ifgo"] == [21, 41, 61, 81] and "bias" not in flax["ii"]
    del narrow["peephole_l0"]
    (cudnn,) = to_system("cudnn", "lstm", narrow)  # linLayerID: i f g o of x, i f g o of h, the projection
    assert [cudnn[n]["matrix"][0, 0] for n in range(8)] == [10, 20, 30, 40, 11, 21, 31, 41] and 8 in cudnn
    assert [cudnn[n]["bias"][0] for n in range(8)] == [10, 20, 30, 40, 11, 21, 31, 41]
    assert cudnn[0]["matrix"].shape == (H, I) and cudnn[8].keys() == {"matrix"}


def test_gru_gates_spelled_out() -> None:
    """r = 10, z = 20, n = 30, recurrent biases 11, 21, 31."""
    keras = to_system("keras", "gru", marked("gru"))  # z r h, and two rows of biases
    assert gates(keras[0], 1) == [20, 10, 30] and gates(keras[1], 1) == [21, 11, 31]
    assert keras[2].shape == (2, 3 * H)
    assert [gates(keras[2][n], 0) for n in range(2)] == [[20, 10, 30], [21, 11, 31]]
    assert gates(to_system("keras", "gru", marked("gru"), reset_after=False)[2], 0) == [41, 21, 61]
    (onnx,) = to_system("onnx", "gru", marked("gru"))  # W[zrh]
    assert gates(onnx["B"][0], 0) == [20, 10, 30, 21, 11, 31]
    (onednn,) = to_system("onednn", "gru", marked("gru"))  # u r o u'
    assert onednn["bias"][0, 0, :, 0].tolist() == [41, 21, 30, 31]
    (onednn,) = to_system("onednn", "gru", marked("gru"), reset_after=False)
    assert onednn["bias"][0, 0, :, 0].tolist() == [41, 21, 61]
    (tf,) = to_system("tensorflow_block", "gru", marked("gru"), reset_after=False)
    assert gates(tf["w_ru"][:I], 1) == [10, 20] and gates(tf["w_ru"][I:], 1) == [11, 21]
    assert gates(tf["w_c"][:I], 1) == [30] and gates(tf["b_ru"], 0) == [21, 41] and gates(tf["b_c"], 0) == [61]
    (mlx,) = to_system("mlx", "gru", marked("gru"))  # r z n
    assert gates(mlx["Wx"], 0) == [10, 20, 30] and gates(mlx["b"], 0) == [21, 41, 30] and gates(mlx["bhn"], 0) == [31]
    (flax,) = to_system("flax", "gru", marked("gru"))
    assert [flax["i" + gate]["bias"][0] for gate in "rzn"] == [21, 41, 30] and flax["hn"]["bias"][0] == 31
    assert [flax["h" + gate]["kernel"][0, 0] for gate in "rzn"] == [11, 21, 31] and "bias" not in flax["hr"]
    (haste,) = to_system("haste", "gru", marked("gru"))
    assert gates(haste["kernel"], 1) == [20, 10, 30] and gates(haste["recurrent_bias"], 0) == [21, 11, 31]
    (cudnn,) = to_system("cudnn", "gru", marked("gru"))
    assert [cudnn[n]["bias"][0] for n in range(6)] == [10, 20, 30, 11, 21, 31]


def test_order_of_layers_and_directions() -> None:
    case = Case("keras", "lstm")
    params = state_dict(case, 2, 2)
    keras = to_system("keras", "lstm", params, num_layers=2, bidirectional=True)
    for n, suffix in enumerate(("_l0", "_l0_reverse", "_l1", "_l1_reverse")):
        assert np.array_equal(keras[3 * n], params[f"weight_ih{suffix}"].T)
    onnx = to_system("onnx", "rnn", state_dict(Case("onnx", "rnn"), 2, 2), num_layers=2, bidirectional=True)
    assert [layer["W"].shape for layer in onnx] == [(2, H, I), (2, H, 2 * H)]


def test_a_layer_takes_what_comes_back() -> None:
    """And arrays of another library come in as they are."""
    layer = rk.GRU(I, H, num_layers=2, bidirectional=True, seed=1)
    arrays = to_system("keras", "gru", layer.state_dict(), num_layers=2, bidirectional=True)
    other = rk.GRU(I, H, num_layers=2, bidirectional=True, seed=2)
    tensors = [torch.from_numpy(array) for array in arrays]
    other.load_state_dict(from_system("keras", "gru", tensors, num_layers=2, bidirectional=True))
    assert all(np.array_equal(other.params[name], value) for name, value in layer.params.items())
    module = torch.nn.GRU(I, H, 2, bidirectional=True).requires_grad_(False)
    again = to_system("keras", "gru", module.state_dict(), num_layers=2, bidirectional=True)
    assert np.array_equal(again[0][:, :H], module.weight_ih_l0[H : 2 * H].T)


# --- refused ----------------------------------------------------------------


def params_of(cell: str, **extras: Array) -> dict[str, Array]:
    return state_dict(Case("keras", cell)) | extras


@pytest.mark.parametrize(
    ("system", "cell", "params", "keywords", "said"),
    [
        ("thean", "gru", {}, {}, r"system: expected one of keras, .*'thean'"),
        ("keras", "LSTM", {}, {}, r"cell: expected one of rnn, gru, lstm, got 'LSTM'"),
        ("tensorflow_block", "rnn", {}, {}, r"cell: tensorflow_block has gru, lstm, got 'rnn'"),
        ("mlx", "gru", {}, {"reset_after": False}, r"reset_after: .*after .*: expected True, got False"),
        ("tensorflow_block", "gru", {}, {}, r"reset_after: .*before .*: expected False, got True"),
        ("keras", "lstm", {}, {"forget_bias": 1.0}, r"forget_bias: keras's lstm adds none .*got 1.0"),
        ("tensorflow_block", "gru", {}, {"forget_bias": 1.0, "reset_after": False}, r"forget_bias: .*gru adds none"),
        ("nnx", "gru", params_of("gru"), {}, r"state_dict\['bias_hh_l0'\]: nnx has no recurrent bias of gate n"),
        ("keras", "lstm", params_of("lstm", peephole_l0=PEEPHOLE), {}, r"'peephole_l0'\]: keras has no place for it"),
        (
            "flax",
            "lstm",
            state_dict(Case("onednn", "lstm", extras=("projection",))),
            {},
            r"'weight_hr_l0'\]: flax has no place for it",
        ),
        ("mlx", "gru", state_dict(Case("haste", "gru", extras=("norm",))), {}, r"'gamma_ih_l0'\]: mlx has no place"),
        ("haste", "rnn", params_of("rnn"), {}, r"'weight_hh_l0'\]: expected shape \[4\] .*, got \[4, 4\]"),
        ("keras", "gru", params_of("gru", peephole_l0=PEEPHOLE), {}, r"state_dict: expected .*, got 'peephole_l0'"),
        ("keras", "gru", params_of("gru"), {"num_layers": 2}, r"'weight_ih_l1'\], .*: expected arrays of weight"),
        ("keras", "gru", state_dict(Case("keras", "gru"), 2), {}, r"num_layers=1.*got 'bias_hh_l1', .*'weight_ih_l1'"),
        ("keras", "lstm", {"weight_ih_l0": np.ones((8, 3))}, {}, r"'weight_hh_l0'\]: expected arrays of weight"),
        (
            "onnx",
            "lstm",
            {name: value for name, value in params_of("lstm").items() if name != "bias_hh_l0"},
            {},
            r"state_dict\['bias_hh_l0'\]: expected arrays of bias",
        ),
        ("onnx", "lstm", params_of("lstm", bias_hh_l0=np.ones(8)), {}, r"'bias_hh_l0'\]: expected shape \[16\].*\[8\]"),
        (
            "onnx",
            "lstm",
            params_of("lstm", weight_ih_l0=np.ones((15, 3))),
            {},
            r"axis 0 to hold 4 gates, got \[15, 3\]",
        ),
        ("onnx", "rnn", params_of("rnn", weight_ih_l0=np.ones(4)), {}, r"'weight_ih_l0'\]: expected 2 axes, got 1"),
        (
            "onnx",
            "rnn",
            state_dict(Case("onnx", "rnn"), 2) | {"weight_ih_l1": np.ones((H, H + 1))},
            {"num_layers": 2},
            r"'weight_ih_l1'\]: expected Sizes\(inputs=4, .*, got Sizes\(inputs=5",
        ),
    ],
)
def test_refused(system: str, cell: str, params: dict[str, Array], keywords: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        to_system(system, cell, params, **keywords)


def test_refused_kinds() -> None:
    mixed = params_of("gru", bias_ih_l0=np.zeros(3 * H, np.float32))
    with pytest.raises(TypeError, match=r"'bias_ih_l0'\]: expected float64, .*'weight_ih_l0'\]'s dtype, got float32"):
        to_system("onnx", "gru", mixed)
    with pytest.raises(TypeError, match="state_dict: expected a mapping"):
        to_system("onnx", "gru", [np.ones(3)])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"state_dict\['weight_hh_l0'\]: .*requires grad"):
        to_system(
            "onnx", "gru", dict(torch.nn.GRU(I, H).state_dict(keep_vars=True)) | {"weight_ih_l0": np.ones((12, 3))}
        )
    with pytest.raises(TypeError, match="arrays: expected a list"):
        from_system("mlx", "rnn", {"Wxh": np.ones((2, 2))})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="reset_after: expected a bool, got int"):
        from_system("mlx", "rnn", [], reset_after=1)  # type: ignore[arg-type]


def test_refused_arrays() -> None:
    keras = to_system("keras", "lstm", params_of("lstm"))
    with pytest.raises(ValueError, match=r"arrays: expected kernel, recurrent_kernel, bias .* got 4 arrays"):
        from_system("keras", "lstm", [*keras, keras[2]])
    with pytest.raises(
        ValueError, match=r"arrays\[1\] \(recurrent_kernel\): expected shape \[4, 16\] .* got \[16, 4\]"
    ):
        from_system("keras", "lstm", [keras[0], keras[1].T, keras[2]])
    flax = to_system("flax", "lstm", params_of("lstm"))
    with pytest.raises(ValueError, match=r"arrays: expected 2 mappings .* got 1 of dict"):
        from_system("flax", "lstm", flax, bidirectional=True)
    with pytest.raises(ValueError, match=r"arrays\[0\]: expected ii/kernel, .*, got wrong/kernel"):
        from_system("flax", "lstm", [{"wrong": {"kernel": keras[0]}}])
    with pytest.raises(ValueError, match=r"arrays\[0\]\['hg/bias'\]: expected arrays of bias, got none"):
        from_system("flax", "lstm", [{**flax[0], "hg": {"kernel": flax[0]["hg"]["kernel"]}}])
    onnx = to_system("onnx", "lstm", params_of("lstm"))
    with pytest.raises(ValueError, match=r"arrays\[0\]\['W'\]: expected leading axes \[2\], got \[1, 16, 3\]"):
        from_system("onnx", "lstm", onnx, bidirectional=True)
    (tf,) = to_system("tensorflow_block", "lstm", params_of("lstm"))
    with pytest.raises(ValueError, match=r"'wcf'\], arrays\[0\]\['wco'\]: expected arrays of peephole"):
        from_system("tensorflow_block", "lstm", [tf | {"wci": np.zeros(H)}])
    with pytest.raises(ValueError, match=r"arrays\[0\]\['w'\]: expected at least one unit and one input"):
        from_system("tensorflow_block", "lstm", [tf | {"w": tf["w"][:H]}])
