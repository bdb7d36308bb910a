"""What each option of the judge means: against torch and ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

from reference_cases import EPS, IN, LENGTHS, B, H, P, T, close, data, parameters
from rnnkern import reference
from rnnkern.reference import Options

Array = np.ndarray[Any, Any]

# --- torch ----------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["d1", "d2"])
def test_projection_is_torchs(bidirectional: bool, lengths: tuple[int, ...] | None) -> None:
    torch.manual_seed(0)
    D = 2 if bidirectional else 1
    module = torch.nn.LSTM(IN, H, 2, proj_size=P, bidirectional=bidirectional, dtype=torch.float64)
    shapes = [(T, B, IN), (2 * D, B, P), (2 * D, B, H)]
    x, h_0, c_0 = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    dy, dh_n, dc_n = (torch.randn(shape, dtype=torch.float64) for shape in [(T, B, D * P), *shapes[1:]])
    pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
    given = x if lengths is None else pack(x, torch.tensor(lengths), enforce_sorted=False)
    y, (h_n, c_n) = module(given, (h_0, c_0))
    y = y if lengths is None else pad(y, total_length=T)[0]
    torch.autograd.backward([y, h_n, c_n], [dy, dh_n, dc_n])

    params = {name: value.detach().numpy() for name, value in module.named_parameters()}
    inputs = [value.detach().numpy() for value in (x, h_0, c_0)]
    *outputs, saved = reference.stack("lstm", params, *inputs, lengths, num_layers=2, bidirectional=bidirectional)
    for got, value in zip(outputs, (y, h_n, c_n), strict=True):
        close(got, value.detach().numpy())
    grads = reference.stack_backward(saved, dy.numpy(), dh_n.numpy(), dc_n.numpy())
    wanted = {"x": x, "h_0": h_0, "c_0": c_0, **dict(module.named_parameters())}
    assert grads.keys() == wanted.keys()
    for name, leaf in wanted.items():
        assert leaf.grad is not None
        close(grads[name], leaf.grad.numpy(), name)


def written_out(cell: str, p: dict[str, torch.Tensor], x: Any, h: Any, c: Any, options: Options) -> Any:
    """The layer in torch's operations, step by step; the cell's own activations."""
    normed = torch.nn.functional.layer_norm

    def side(v: torch.Tensor, name: str) -> torch.Tensor:
        product = torch.nn.functional.linear(v, p[f"weight_{name}"])
        if options.layer_norm:
            return normed(product, product.shape[1:], p[f"gamma_{name}"], p[f"bias_{name}"])
        return product + p[f"bias_{name}"]

    def bound(v: torch.Tensor) -> torch.Tensor:
        return v if options.clip is None else v.clamp(-options.clip, options.clip)

    outputs = []
    for step in x:
        gx, gh = side(step, "ih"), side(h, "hh")
        if cell == "rnn_tanh":
            h = bound(gx + gh).tanh()
        elif cell == "gru":
            (xr, xz, xn), (hr, hz, hn) = gx.chunk(3, 1), gh.chunk(3, 1)
            r, z = bound(xr + hr).sigmoid(), bound(xz + hz).sigmoid()
            if not options.reset_after:
                hn = (r * h) @ p["weight_hh"].chunk(3)[2].T + p["bias_hh"].chunk(3)[2]
            n = bound(xn + (r * hn if options.reset_after else hn)).tanh()
            h = (1 - z) * n + z * h
        else:
            vi, vf, vg, vo = (gx + gh).chunk(4, 1)
            p_i, p_f, p_o = p["peephole"] if options.peephole else torch.zeros(3, H, dtype=torch.float64)
            i = bound(vi + p_i * c).sigmoid()
            f = 1 - i if options.coupled else bound(vf + p_f * c).sigmoid()
            c = f * c + i * bound(vg).tanh()
            o = bound(vo + p_o * c).sigmoid()
            h = o * (normed(c, (H,), p["gamma_c"], p["beta_c"]) if options.layer_norm else c).tanh()
            h = h @ p["weight_hr"].T if "weight_hr" in p else h
        outputs.append(h)
    return torch.stack(outputs), h, c


@pytest.mark.parametrize(
    ("cell", "options"),
    [
        ("lstm", Options(coupled=True)),
        ("lstm", Options(peephole=True)),
        ("lstm", Options(clip=0.4)),
        ("lstm", Options(layer_norm=True)),
        ("lstm", Options(coupled=True, peephole=True, clip=0.7, layer_norm=True)),
        ("gru", Options(layer_norm=True)),
        ("gru", Options(reset_after=False)),
        ("gru", Options(clip=0.4)),
        ("gru", Options(clip=0.4, reset_after=False)),
        ("rnn_tanh", Options(layer_norm=True, clip=0.4)),
    ],
)
def test_a_step_is_what_it_is_in_torchs_operations(cell: str, options: Options) -> None:
    """Outputs, and gradients by autograd."""
    rng = np.random.default_rng(2)
    width = P if options.peephole else H
    params = parameters(cell, options, rng, P if options.peephole else 0)
    x, h_0, c_0 = data(cell, rng, width)
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in params.items()}
    states = {"x": x, "h_0": h_0} | ({} if c_0 is None else {"c_0": c_0})
    leaves |= {name: torch.tensor(value, requires_grad=True) for name, value in states.items()}
    y, h_n, c_n = written_out(cell, leaves, leaves["x"], leaves["h_0"], leaves.get("c_0"), options)
    finals = [y, h_n] if c_n is None else [y, h_n, c_n]
    got_y, got_h, got_c, saved = reference.layer(cell, params, x, h_0, c_0, options=options)
    for got, value in zip((got_y, got_h, got_c), finals, strict=False):
        assert got is not None
        close(got, value.detach().numpy())
    seeds = [torch.tensor(rng.standard_normal(value.shape)) for value in finals]
    torch.autograd.backward(finals, seeds)
    grads = reference.layer_backward(saved, *(seed.numpy() for seed in seeds))
    assert grads.keys() == leaves.keys()
    for name, leaf in leaves.items():
        assert leaf.grad is not None
        close(grads[name], leaf.grad.numpy(), name)


_F = torch.nn.functional
ACTIVATIONS: dict[str, tuple[float, float, Any]] = {
    "affine": (0.7, -0.2, lambda v: 0.7 * v - 0.2),
    "elu": (0.7, 0.0, lambda v: _F.elu(v, 0.7)),
    "hardsigmoid": (0.3, 0.45, lambda v: (0.3 * v + 0.45).clamp(0, 1)),  # torch has that of 1/6 and 1/2 alone
    "leakyrelu": (0.3, 0.0, lambda v: _F.leaky_relu(v, 0.3)),
    "relu": (0.0, 0.0, _F.relu),
    "scaledtanh": (1.7159, 2 / 3, lambda v: 1.7159 * torch.tanh(2 / 3 * v)),
    "sigmoid": (0.0, 0.0, torch.sigmoid),
    "softplus": (0.0, 0.0, lambda v: _F.softplus(v, threshold=50)),  # torch is linear beyond its threshold
    "softsign": (0.0, 0.0, _F.softsign),
    "tanh": (0.0, 0.0, torch.tanh),
    "thresholdedrelu": (0.8, 0.0, lambda v: _F.threshold(v, 0.8, 0.0)),
}


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations_are_torchs(name: str) -> None:
    """Values and slopes from far left to far right; 8 eps of what is largest so far, as 1 - tanh**2 cancels."""
    alpha, beta, function = ACTIVATIONS[name]
    v = np.concatenate([np.linspace(-40, 40, 401), np.linspace(-2, 2, 399)])
    activation = reference.Activation(name, alpha, beta)
    v = v[np.abs(v[:, None] - np.array([*activation.kinks(), 1e9])).min(1) > 1e-6]
    leaf = torch.tensor(v, requires_grad=True)
    out = function(leaf)
    out.backward(torch.full_like(leaf, 3.0))
    assert leaf.grad is not None
    got = activation.forward(v)
    slope = activation.backward(v, got, np.full_like(v, 3.0))
    for ours, theirs in ((got, out.detach().numpy()), (slope, leaf.grad.numpy())):
        assert (np.abs(ours - theirs) <= 8 * EPS * np.maximum(1, np.abs(theirs))).all()
    bounded = reference.Activation(name, alpha, beta, clip=1.5)
    wide = np.abs(v) > 1.5
    assert np.array_equal(bounded.forward(v), activation.forward(np.clip(v, -1.5, 1.5)))
    assert np.array_equal(bounded.backward(v, bounded.forward(v), 3 * np.ones_like(v)), np.where(wide, 0, slope))


def test_every_activation_of_onnx_is_there() -> None:
    assert set(ACTIVATIONS) == set(reference.activations.FORWARD) == set(reference.activations.BACKWARD)
    with pytest.raises(ValueError, match=r"expected one of .*, got 'gelu'"):
        reference.Activation("gelu")


# --- ONNX Runtime ---------------------------------------------------------

ORDER = {"rnn_tanh": [0], "gru": [1, 0, 2], "lstm": [0, 3, 1, 2]}  # ONNX's gates, as places in ours
OPERATOR = {"rnn_tanh": "RNN", "gru": "GRU", "lstm": "LSTM"}


def run_onnx(cell: str, params: dict[str, Array], x: Array, h_0: Array, c_0: Array | None, **attributes: Any) -> Any:
    """One direction of ONNX Runtime's operator in float32: y, h_n and c_n."""

    def gates(name: str) -> Array:
        parts = np.split(params[name], len(ORDER[cell]))
        return np.concatenate([parts[k] for k in ORDER[cell]])

    given = {"X": x, "W": gates("weight_ih")[None], "R": gates("weight_hh")[None]}
    given |= {"B": np.concatenate([gates("bias_ih"), gates("bias_hh")])[None], "lengths": np.array(LENGTHS)}
    given |= {"initial_h": h_0[None]} | ({} if c_0 is None else {"initial_c": c_0[None]})
    if "peephole" in params:
        given["P"] = params["peephole"][[0, 2, 1]].reshape(1, -1)
    types = {name: np.int32 if name == "lengths" else np.float32 for name in given}
    given = {name: np.ascontiguousarray(value, types[name]) for name, value in given.items()}
    outputs = ["Y", "Y_h", "Y_c"][: 2 if c_0 is None else 3]
    node = helper.make_node(OPERATOR[cell], list(given), outputs, hidden_size=H, **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [
            helper.make_tensor_value_info(
                name, TensorProto.INT32 if name == "lengths" else TensorProto.FLOAT, value.shape
            )
            for name, value in given.items()
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    y, *finals = session.run(None, given)
    return y[:, 0], *(final[0] for final in finals)


def onnx_activations(*entries: tuple[str, float, float]) -> dict[str, Any]:
    names, alphas, betas = zip(*entries, strict=True)
    return {"activations": names, "activation_alpha": alphas, "activation_beta": betas}


HARD, SCALED = ("HardSigmoid", 0.25, 0.5), ("ScaledTanh", 0.75, 1.25)
AFFINE, PLAIN = ("Affine", 0.5, 0.125), ("LeakyRelu", 0.125, 0.0)


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(
    ("cell", "options", "attributes"),
    [
        ("gru", Options(reset_after=False), {"linear_before_reset": 0}),
        ("gru", Options(reset_after=False, clip=0.5), {"linear_before_reset": 0, "clip": 0.5}),
        ("gru", Options(clip=0.5), {"linear_before_reset": 1, "clip": 0.5}),
        ("lstm", Options(peephole=True), {}),
        ("lstm", Options(coupled=True), {"input_forget": 1}),
        ("lstm", Options(peephole=True, coupled=True), {"input_forget": 1}),
        ("lstm", Options(clip=0.5), {"clip": 0.5}),
        ("rnn_tanh", Options(clip=0.5), {"clip": 0.5}),
        ("rnn_tanh", (PLAIN,), None),
        ("gru", (HARD, SCALED), None),
        ("lstm", (HARD, SCALED, AFFINE), None),
    ],
)
def test_against_onnx_runtime(cell: str, options: Any, attributes: dict[str, Any] | None, reverse: bool) -> None:
    """With lengths. LSTM's clip is far below the gates' inputs and below |c|, which it must leave alone."""
    if attributes is None:
        entries, options = options, Options(activations=tuple((n.lower(), a, b) for n, a, b in options))
        attributes = onnx_activations(*entries) | ({"linear_before_reset": 1} if cell == "gru" else {})
    rng = np.random.default_rng(3)
    size = 6.0 if cell == "lstm" and options.clip else 1.0  # far beyond the clip
    params = {name: (size * v).astype(np.float32) for name, v in parameters(cell, options, rng).items()}
    x, h_0, c_0 = (None if v is None else v.astype(np.float32) for v in data(cell, rng))
    assert x is not None and h_0 is not None
    theirs = run_onnx(cell, params, x, h_0, c_0, direction="reverse" if reverse else "forward", **attributes)
    y, h_n, c_n, saved = reference.layer(cell, params, x, h_0, c_0, LENGTHS, reverse, options=options)
    if c_n is not None and options.clip:
        cs = [np.abs(tape.c).max() for _, _, tape in saved.steps]
        assert max(cs) > 1.5 * options.clip < max(np.abs(tape.inputs[0]).max() for _, _, tape in saved.steps)
    ours = [y, h_n] if c_n is None else [y, h_n, c_n]
    for got, wanted in zip(theirs, ours, strict=True):
        close(got, wanted, eps=float(np.finfo(np.float32).eps))
