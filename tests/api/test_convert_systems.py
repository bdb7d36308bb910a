"""Converted weights in the other system's own equations give what rnnkern's equations give for the state dict.

The steps are written from each system's documentation or code (named beside them), in float64, on its own arrays.
ONNX runs in onnxruntime. The libraries themselves, where they are installed: api/test_convert_peers.py.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import rnnkern as rk
from convert_cases import CASES, Array, Case, H, I, P, Step, judged, norm, options, run, sigmoid, state_dict
from numeric import EPS, near
from rnnkern import reference
from rnnkern.convert import from_system, to_system

T, B = 4, 2
# Two float64 computations of 2 layers and 4 steps, sums of up to 20 terms of size 1: as reference/test_plain.py has it.
BOUND = 64 * EPS["float64"]
split = np.split


def lstm(v: tuple[Array, ...], c: Array, peephole: tuple[Any, ...] = (0, 0, 0)) -> tuple[Array, Array]:
    """i, f, g, o before their activations -> o * tanh(c), c. All systems agree once the gates are named."""
    i, f, g, o = v
    i, f = sigmoid(i + peephole[0] * c), sigmoid(f + peephole[1] * c)
    c = f * c + i * np.tanh(g)
    return sigmoid(o + peephole[2] * c) * np.tanh(c), c


# --- the systems' equations: step(arrays, x, h', c') -> h, c ----------------


def keras_rnn(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """SimpleRNNCell.call."""
    return np.tanh(x @ a["kernel"] + a["bias"] + h @ a["recurrent_kernel"]), c


def keras_gru(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """GRUCell.call, implementation 2, both values of reset_after (read off the bias's axes, as its __init__ sets)."""
    after, recurrent = a["bias"].ndim == 2, a["recurrent_kernel"]
    input_bias, recurrent_bias = a["bias"] if after else (a["bias"], 0.0)
    x_z, x_r, x_h = split(x @ a["kernel"] + input_bias, 3, 1)
    if after:
        h_z, h_r, h_h = split(h @ recurrent + recurrent_bias, 3, 1)
    else:
        h_z, h_r = split(h @ recurrent[:, : 2 * H], 2, 1)
    z, r = sigmoid(x_z + h_z), sigmoid(x_r + h_r)
    hh = np.tanh(x_h + (r * h_h if after else (r * h) @ recurrent[:, 2 * H :]))
    return z * h + (1 - z) * hh, c


def keras_lstm(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """LSTMCell.call: z0, z1, z2, z3 are i, f, c, o."""
    z0, z1, z2, z3 = split(x @ a["kernel"] + h @ a["recurrent_kernel"] + a["bias"], 4, 1)
    return lstm((z0, z1, z2, z3), c)


def dense(a: Mapping[str, Array], x: Array) -> Array:
    return x @ a["kernel"] + a.get("bias", 0.0)


def flax_rnn(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """linen.SimpleCell."""
    return np.tanh(dense(a["i"], x) + dense(a["h"], h)), c


def flax_gru(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """linen.GRUCell."""
    r, z = (sigmoid(dense(a["i" + gate], x) + dense(a["h" + gate], h)) for gate in "rz")
    n = np.tanh(dense(a["in"], x) + r * dense(a["hn"], h))
    return (1 - z) * n + z * h, c


def flax_lstm(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """linen.LSTMCell."""
    return lstm(tuple(dense(a["i" + gate], x) + dense(a["h" + gate], h) for gate in "ifgo"), c)


def nnx_rnn(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """nnx.SimpleCell."""
    return np.tanh(dense(a["dense_i"], x) + dense(a["dense_h"], h)), c


def nnx_gru(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """nnx.GRUCell."""
    (x_r, x_z, x_n), (h_r, h_z, h_n) = split(dense(a["dense_i"], x), 3, 1), split(dense(a["dense_h"], h), 3, 1)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    return (1 - z) * np.tanh(x_n + r * h_n) + z * h, c


def nnx_lstm(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """nnx.OptimizedLSTMCell: i, f, g, o."""
    return lstm(tuple(split(dense(a["dense_i"], x) + dense(a["dense_h"], h), 4, 1)), c)


def onednn_rnn(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """rnn.md, Vanilla RNN: W . x + U . h + B, weights [I, G, O]."""
    return np.tanh(x @ a["weights_layer"][:, 0] + h @ a["weights_iter"][:, 0] + a["bias"][0]), c


def onednn_gru(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """rnn.md, GRU (three rows of bias) and Linear-Before-Reset GRU (four: u, r, o, u')."""
    W, U, b = np.moveaxis(a["weights_layer"], 1, 0), np.moveaxis(a["weights_iter"], 1, 0), a["bias"]
    u, r = sigmoid(x @ W[0] + h @ U[0] + b[0]), sigmoid(x @ W[1] + h @ U[1] + b[1])
    o = np.tanh(x @ W[2] + (r * (h @ U[2] + b[3]) if len(b) == 4 else (r * h) @ U[2]) + b[2])
    return u * h + (1 - u) * o, c


def onednn_lstm(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """rnn.md, LSTM with Peephole (i, f, o) and with Projection; gates i, f, c~, o."""
    gates = np.einsum("bi,igo->gbo", x, a["weights_layer"]) + np.einsum("bi,igo->gbo", h, a["weights_iter"])
    h, c = lstm(tuple(gates + a["bias"][:, None]), c, tuple(a.get("weights_peephole", np.zeros((3, H)))))
    return (h @ a["weights_projection"] if "weights_projection" in a else h), c


def cudnn(cell: str) -> Step:
    """CUDNN_RNN_TANH, CUDNN_GRU (i is what others call z), CUDNN_LSTM of cudnnRNNMode_t, by linLayerID."""
    gates = {"rnn": 1, "gru": 3, "lstm": 4}[cell]

    def step(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
        gx = [x @ a[n]["matrix"].T + a[n]["bias"] for n in range(gates)]
        gh = [h @ a[gates + n]["matrix"].T + a[gates + n]["bias"] for n in range(gates)]
        if cell == "rnn":
            return np.tanh(gx[0] + gh[0]), c
        if cell == "gru":
            r, i = sigmoid(gx[0] + gh[0]), sigmoid(gx[1] + gh[1])
            return (1 - i) * np.tanh(gx[2] + r * gh[2]) + i * h, c
        h, c = lstm(tuple(u + v for u, v in zip(gx, gh, strict=True)), c)
        return (h @ a[8]["matrix"].T if 8 in a else h), c

    return step


def tensorflow_gru(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """tf.raw_ops.GRUBlockCell."""
    r, u = split(sigmoid(np.concatenate([x, h], 1) @ a["w_ru"] + a["b_ru"]), 2, 1)
    candidate = np.tanh(np.concatenate([x, h * r], 1) @ a["w_c"] + a["b_c"])
    return (1 - u) * candidate + u * h, c


def tensorflow_lstm(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """tf.raw_ops.LSTMBlockCell with forget_bias=1: i, ci, f, o."""
    i, ci, f, o = split(np.concatenate([x, h], 1) @ a["w"] + a["b"], 4, 1)
    return lstm((i, f + 1, ci, o), c, tuple(a.get(f"wc{gate}", 0.0) for gate in "ifo"))


def haste_rnn(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """haste's IndRNNScript."""
    return np.tanh(x @ a["kernel"] + a["bias"] + h * a["recurrent_scale"]), c


def haste_gru(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """haste's GRUScript and LayerNormGRUScript: chunks z, r, g."""
    x, h_ = x @ a["kernel"], h @ a["recurrent_kernel"]
    if "gamma" in a:
        x, h_ = norm(x) * a["gamma"][0], norm(h_) * a["gamma"][1]
    vx, vh = split(x + a["bias"], 3, 1), split(h_ + a["recurrent_bias"], 3, 1)
    z, r = sigmoid(vx[0] + vh[0]), sigmoid(vx[1] + vh[1])
    return z * h + (1 - z) * np.tanh(vx[2] + r * vh[2]), c


def haste_lstm(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """haste's LSTMScript and LayerNormLSTMScript: chunks i, g, f, o."""
    x, h = x @ a["kernel"], h @ a["recurrent_kernel"]
    if "gamma" in a:
        x, h = norm(x) * a["gamma"][0], norm(h) * a["gamma"][1]
    i, g, f, o = split(h + x + a["bias"], 4, 1)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(norm(c) * a["gamma_h"] + a["beta_h"] if "gamma_h" in a else c), c


def mlx_rnn(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """mlx.nn.RNN."""
    return np.tanh(x @ a["Wxh"].T + a["bias"] + h @ a["Whh"].T), c


def mlx_gru(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """mlx.nn.GRU."""
    x, h_proj = x @ a["Wx"].T + a["b"], h @ a["Wh"].T
    r, z = split(sigmoid(x[:, : 2 * H] + h_proj[:, : 2 * H]), 2, 1)
    n = np.tanh(x[:, 2 * H :] + r * (h_proj[:, 2 * H :] + a["bhn"]))
    return (1 - z) * n + z * h, c


def mlx_lstm(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """mlx.nn.LSTM."""
    return lstm(tuple(split(x @ a["Wx"].T + a["bias"] + h @ a["Wh"].T, 4, 1)), c)


def madmom_rnn(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """madmom.ml.nn.layers.RecurrentLayer with tanh."""
    return np.tanh(x @ a["weights"] + a["bias"] + h @ a["recurrent_weights"]), c


def madmom_gate(a: Any, x: Array, h: Array, state: Array | None = None) -> Array:
    """Gate.activate before its activation."""
    out = x @ a["weights"] + a["bias"] + h @ a["recurrent_weights"]
    return out + state * a["peephole_weights"] if "peephole_weights" in a else out


def madmom_gru(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """GRULayer."""
    rg, ug = sigmoid(madmom_gate(a["reset_gate"], x, h)), sigmoid(madmom_gate(a["update_gate"], x, h))
    cell = a["cell"]
    out = np.tanh(x @ cell["weights"] + cell["bias"] + rg * (h @ cell["recurrent_weights"]))
    return ug * out + (1 - ug) * h, c


def madmom_lstm(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """LSTMLayer."""
    ig, fg = sigmoid(madmom_gate(a["input_gate"], x, h, c)), sigmoid(madmom_gate(a["forget_gate"], x, h, c))
    c = np.tanh(madmom_gate(a["cell"], x, h)) * ig + c * fg
    return np.tanh(c) * sigmoid(madmom_gate(a["output_gate"], x, h, c)), c


def lasagne_rnn(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """lasagne.layers.RecurrentLayer with tanh."""
    return np.tanh(x @ a["input_to_hidden.W"] + a["input_to_hidden.b"] + h @ a["hidden_to_hidden.W"]), c


def lasagne_gru(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """GRULayer."""
    gates = ("resetgate", "updategate", "hidden_update")
    rx, ux, nx = (x @ a[f"W_in_to_{gate}"] + a[f"b_{gate}"] for gate in gates)
    rh, uh, nh = (h @ a[f"W_hid_to_{gate}"] for gate in gates)
    r, u = sigmoid(rx + rh), sigmoid(ux + uh)
    return (1 - u) * h + u * np.tanh(nx + r * nh), c


def lasagne_lstm(a: Any, x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    """LSTMLayer."""

    def gate(name: str, state: Array) -> Array:
        v = x @ a[f"W_in_to_{name}"] + a[f"b_{name}"] + h @ a[f"W_hid_to_{name}"]
        return v + state * a[f"W_cell_to_{name}"] if f"W_cell_to_{name}" in a else v

    old = c
    c = sigmoid(gate("forgetgate", old)) * old + sigmoid(gate("ingate", old)) * np.tanh(gate("cell", old))
    return sigmoid(gate("outgate", c)) * np.tanh(c), c


STEPS: dict[tuple[str, str], Step] = {
    ("keras", "rnn"): keras_rnn,
    ("keras", "gru"): keras_gru,
    ("keras", "lstm"): keras_lstm,
    ("flax", "rnn"): flax_rnn,
    ("flax", "gru"): flax_gru,
    ("flax", "lstm"): flax_lstm,
    ("nnx", "rnn"): nnx_rnn,
    ("nnx", "gru"): nnx_gru,
    ("nnx", "lstm"): nnx_lstm,
    ("onednn", "rnn"): onednn_rnn,
    ("onednn", "gru"): onednn_gru,
    ("onednn", "lstm"): onednn_lstm,
    **{("cudnn", cell): cudnn(cell) for cell in ("rnn", "gru", "lstm")},
    ("tensorflow_block", "gru"): tensorflow_gru,
    ("tensorflow_block", "lstm"): tensorflow_lstm,
    ("haste", "rnn"): haste_rnn,
    ("haste", "gru"): haste_gru,
    ("haste", "lstm"): haste_lstm,
    ("mlx", "rnn"): mlx_rnn,
    ("mlx", "gru"): mlx_gru,
    ("mlx", "lstm"): mlx_lstm,
    ("madmom", "rnn"): madmom_rnn,
    ("madmom", "gru"): madmom_gru,
    ("madmom", "lstm"): madmom_lstm,
    ("lasagne", "rnn"): lasagne_rnn,
    ("lasagne", "gru"): lasagne_gru,
    ("lasagne", "lstm"): lasagne_lstm,
}


def units(system: str, arrays: list[Any], directions: int) -> list[Mapping[Any, Any]]:
    """What each layer and direction has, in the system's names."""
    if system == "keras":
        names = ("kernel", "recurrent_kernel", "bias")
        return [dict(zip(names, arrays[n : n + 3], strict=True)) for n in range(0, len(arrays), 3)]
    if system == "onednn":
        return [{name: a[0, d] for name, a in layer.items()} for layer in arrays for d in range(directions)]
    return arrays


def data() -> Array:
    return np.random.default_rng(1).standard_normal((T, B, I))


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("case", [case for case in CASES if case.system != "onnx"], ids=str)
def test_same_outputs(case: Case, directions: int) -> None:
    """Both ways: the system's equations on to_system's arrays, rnnkern's on from_system's."""
    params, x = state_dict(case, 2, directions), data()
    arrays = to_system(case.system, case.cell, params, **options(case, 2, directions))
    wanted = judged(case, params, x, 2, directions)
    width = P if "projection" in case.extras else H
    got = run(STEPS[case.system, case.cell], units(case.system, arrays, directions), x, directions, width)
    near(got, wanted, BOUND)
    back = from_system(case.system, case.cell, arrays, **options(case, 2, directions))
    near(judged(case, back, x, 2, directions), wanted, BOUND)


# --- what the judge itself is held to, and systems that are at hand ---------


@pytest.mark.parametrize("cell", ["rnn", "gru", "lstm"])
def test_the_judge(cell: str) -> None:
    """The equations of convert_cases are rnnkern.reference's; with a projection, torch.nn.LSTM's."""
    params, x = state_dict(Case("keras", cell), 2, 2), data()
    named = {"rnn": "rnn_tanh"}.get(cell, cell)
    y, *_ = reference.stack(named, params, x, num_layers=2, bidirectional=True)
    near(judged(Case("keras", cell), params, x, 2, 2), y, BOUND)


def test_the_judge_of_projections() -> None:
    case = Case("cudnn", "lstm", extras=("projection",))
    params, x = state_dict(case, 2, 2), data()
    module = torch.nn.LSTM(I, H, 2, bidirectional=True, proj_size=P, dtype=torch.float64)
    module.load_state_dict({name: torch.from_numpy(value) for name, value in params.items()})
    near(judged(case, params, x, 2, 2), module(torch.from_numpy(x))[0].detach().numpy(), BOUND)


def run_onnx(cell: str, arrays: dict[str, Array], x: Array, reset_after: bool) -> Array:
    """One layer in onnxruntime: float32, y [T, B, D*H]."""
    operator, directions = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}[cell], arrays["W"].shape[0]
    names = ["x", "W", "R", "B"] + (["", "", "", "P"] if "P" in arrays else [])
    attributes: dict[str, Any] = {"hidden_size": H, "direction": ("forward", "bidirectional")[directions - 1]}
    attributes |= {"linear_before_reset": int(reset_after)} if cell == "gru" else {}
    node = onnx.helper.make_node(operator, names, ["y"], **attributes)
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)]
    constants = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    graph = onnx.helper.make_graph([node], "layer", inputs, outputs, constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 14)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x.astype(np.float32)})
    return y.transpose(0, 2, 1, 3).reshape(len(x), x.shape[1], -1)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("case", [case for case in CASES if case.system == "onnx"], ids=str)
def test_onnxruntime(case: Case, directions: int) -> None:
    params, x = state_dict(case, 2, directions), data().astype(np.float32)
    y = x
    for layer in to_system("onnx", case.cell, params, **options(case, 2, directions)):
        y = run_onnx(case.cell, layer, y, case.reset_after)
    # float32 where the judge has float64; onnxruntime's polynomials for exp and tanh err by some eps each.
    near(y, judged(case, params, x.astype(np.float64), 2, directions), 64 * EPS["float32"])


# --- older versions ---------------------------------------------------------


def cudnn_layer(cell: str, arrays: list[Array], x: Array) -> Array:
    """CuDNNLSTM's and CuDNNGRU's own equations: cuDNN's matrices, each gate's in the bytes of the array's columns."""
    kernel, recurrent, bias = arrays
    G = 4 if cell == "lstm" else 3
    inputs, units = kernel.shape[0], recurrent.shape[0]
    # Per gate [I, H] of Keras holds cuDNN's row-major [H, I]; the recurrent one is transposed.
    W = [k.ravel().reshape(units, inputs) for k in np.split(kernel, G, axis=1)]
    R = np.split(recurrent, G, axis=1)
    b = bias.reshape(2, G, units)
    h, c, out = np.zeros((x.shape[1], units)), np.zeros((x.shape[1], units)), []
    for step in x:
        gx = [step @ W[g].T + b[0, g] for g in range(G)]
        gh = [h @ R[g].T + b[1, g] for g in range(G)]
        if cell == "lstm":  # i f c o
            i, f, o = (sigmoid(gx[g] + gh[g]) for g in (0, 1, 3))
            c = f * c + i * np.tanh(gx[2] + gh[2])
            h = o * np.tanh(c)
        else:  # z r h
            z, r = (sigmoid(gx[g] + gh[g]) for g in (0, 1))
            h = z * h + (1 - z) * np.tanh(gx[2] + r * gh[2])
        out.append(h)
    return np.stack(out)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_cudnn_layers_of_keras_2(cell: str) -> None:
    rng, G = np.random.default_rng(5), 4 if cell == "lstm" else 3
    arrays = [rng.standard_normal(shape) for shape in ((I, G * H), (H, G * H), (2 * G * H,))]
    x = data()
    params = from_system("keras", cell, arrays)
    y, *_ = reference.stack(cell, params, x, num_layers=1)
    near(y, cudnn_layer(cell, arrays, x), BOUND)
    both = [*arrays, *(rng.standard_normal(array.shape) for array in arrays)]
    two = from_system("keras", cell, both, bidirectional=True)
    assert all(np.array_equal(two[name], params[name]) for name in params)


@pytest.mark.parametrize(("cell", "order", "now"), [("lstm", "icfo", "ifco"), ("gru", "zrh", "zrh")])
def test_the_layers_of_keras_1(cell: str, order: str, now: str) -> None:
    rng = np.random.default_rng(6)
    gates = {gate: [rng.standard_normal(shape) for shape in ((I, H), (H, H), (H,))] for gate in order}
    old = [array for gate in order for array in gates[gate]]
    new = [np.concatenate([gates[gate][kind] for gate in now], axis=-1) for kind in range(3)]
    extra = {"reset_after": False} if cell == "gru" else {}
    found, wanted = from_system("keras", cell, old, **extra), from_system("keras", cell, new, **extra)
    assert found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_a_bias_of_another_size_is_still_refused() -> None:
    with pytest.raises(ValueError, match=r"bias.*: expected shape"):
        from_system("keras", "lstm", [np.zeros((I, 4 * H)), np.zeros((H, 4 * H)), np.zeros(8 * H + 1)])


# --- madmom's objects -------------------------------------------------------


def madmom_object(arrays: Any) -> Any:
    """The attributes that madmom's layers have, from a nested mapping."""
    values = {name: madmom_object(own) if isinstance(own, dict) else own for name, own in arrays.items()}
    return types.SimpleNamespace(**{"activation_fn": np.tanh, "peephole_weights": None, **values})


@pytest.mark.parametrize("extras", [(), ("initial",)], ids=str)
@pytest.mark.parametrize("cell", ["rnn", "gru"])
def test_layers_of_madmom(cell: str, extras: tuple[str, ...]) -> None:
    case = Case("madmom", cell, extras=extras)
    params = state_dict(case, 1, 2)
    mappings = to_system("madmom", cell, params, bidirectional=True)
    layers = [madmom_object(own) for own in mappings]
    if not extras:
        for layer in layers:
            layer.init = np.zeros(H)  # madmom's default
    wanted = from_system("madmom", cell, mappings, bidirectional=True)
    pair = types.SimpleNamespace(fwd_layer=layers[0], bwd_layer=layers[1])
    for given in (layers, [pair]):
        found = from_system("madmom", cell, given, bidirectional=True)
        assert found.keys() == wanted.keys() and all(np.array_equal(found[n], wanted[n]) for n in wanted)


def test_an_lstm_of_madmom_in_a_layer() -> None:
    """Peepholes and a learned state of c alone: LSTM(peephole=True) in InitialState."""
    case = Case("madmom", "lstm", extras=("peephole", "initial"))
    params = state_dict(case) | {"h_0_l0": np.zeros(H)}
    (arrays,) = to_system("madmom", "lstm", params)
    layer = rk.InitialState(rk.LSTM(I, H, peephole=True, dtype="float64"))
    layer.load_state_dict(from_system("madmom", "lstm", [madmom_object(arrays)]))
    x = data()
    near(layer(x)[0], run(madmom_lstm, [arrays], x, 1), 64 * EPS["float64"])


def test_what_is_no_layer_of_madmom() -> None:
    with pytest.raises(TypeError, match="arrays: expected mappings or layers of madmom, got int"):
        from_system("madmom", "lstm", [3])
    with pytest.raises(ValueError, match="madmom has no recurrent bias of gate n"):
        to_system("madmom", "gru", state_dict(Case("keras", "gru")))
