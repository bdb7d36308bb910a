"""The judge judged: its gradients against central differences, its plain cells against torch.nn, its Philox against
Random123's known answers. Float64 throughout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rnnkern import reference

Array = np.ndarray[Any, Any]

EPS = float(np.finfo(np.float64).eps)
PLAIN = ("linear", "rnn_tanh", "rnn_relu", "lstm", "gru")


def parameters(cell: str, features: int, H: int, rng: np.random.Generator) -> dict[str, Array]:
    """One layer's parameters: everything the cell has, biases included."""
    units = reference.CELLS[cell].gates * H
    shapes = {"weight_ih": (units, features), "weight_hh": (units, H), "bias_ih": (units,), "bias_hh": (units,)}
    return {name: rng.standard_normal(shape) * 0.6 for name, shape in shapes.items()}


def cells(cell: str) -> int:
    """States beside h, which stand side by side."""
    return reference.CELLS[cell].states - 1


def cell_state(cell: str, rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """c [..., H], of sLSTM c n m, n being a sum of exponentials."""
    parts = [rng.standard_normal(shape) for _ in range(max(1, cells(cell)))]
    parts[1:2] = [np.exp(n) for n in parts[1:2]]
    return np.concatenate(parts, axis=-1)


def differences(loss: Any, inputs: dict[str, Array]) -> dict[str, Array]:
    """Central differences of loss(inputs) in every element. The step balances rounding against the third derivative."""
    step = EPS ** (1 / 3)
    slopes = {}
    for name, array in inputs.items():
        slopes[name] = np.zeros_like(array)
        for index in np.ndindex(array.shape):
            values = []
            for sign in (1, -1):
                moved = array.copy()
                moved[index] += sign * step
                values.append(loss(inputs | {name: moved}))
            slopes[name][index] = (values[0] - values[1]) / (2 * step)
    return slopes


def assert_slopes(got: dict[str, Array], wanted: dict[str, Array]) -> None:
    """Central differences err by about eps^(2/3) times the loss's third derivative, here up to hundreds."""
    assert got.keys() == wanted.keys()
    for name, slope in wanted.items():
        scale = max(1.0, float(np.abs(slope).max()))
        assert np.abs(got[name] - slope).max() <= 1000 * EPS ** (2 / 3) * scale, name
        assert np.abs(slope).max() > 0, f"{name}: a slope of zero tests nothing"


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("lengths", [None, (4, 0, 2)], ids=["full", "lengths"])
@pytest.mark.parametrize("cell", list(reference.CELLS))
def test_layer_gradients(cell: str, lengths: tuple[int, ...] | None, reverse: bool) -> None:
    rng = np.random.default_rng(3)
    T, B, features, H = 4, 3, 2, 3
    params = parameters(cell, features, H, rng)
    inputs = params | {"x": rng.standard_normal((T, B, features)), "h_0": rng.standard_normal((B, H))}
    if cells(cell):
        inputs["c_0"] = cell_state(cell, rng, (B, H))
    dy, dh_n, dc_n = (rng.standard_normal(shape) for shape in ((T, B, H), (B, H), (B, cells(cell) * H)))

    def run(given: dict[str, Array]) -> Any:
        states = (given["h_0"], given.get("c_0"))
        return reference.layer(cell, {k: given[k] for k in params}, given["x"], *states, lengths, reverse)

    def loss(given: dict[str, Array]) -> float:
        y, h_n, c_n, _ = run(given)
        return float((y * dy).sum() + (h_n * dh_n).sum() + (0 if c_n is None else (c_n * dc_n).sum()))

    saved = run(inputs)[3]
    assert_slopes(reference.layer_backward(saved, dy, dh_n, dc_n), differences(loss, inputs))


@pytest.mark.parametrize("cell", ["lstm", "gru", "slstm"])
def test_stack_gradients(cell: str) -> None:
    """Two layers of two directions with lengths, and dropout between them."""
    rng = np.random.default_rng(4)
    T, B, features, H = 3, 3, 2, 4
    params = {
        name + reference.suffix(k, d): value
        for k in range(2)
        for d in range(2)
        for name, value in parameters(cell, 2 * H if k else features, H, rng).items()
    }
    inputs = params | {"x": rng.standard_normal((T, B, features)), "h_0": rng.standard_normal((4, B, H))}
    if cells(cell):
        inputs["c_0"] = cell_state(cell, rng, (4, B, H))
    dy, dh_n, dc_n = (rng.standard_normal(s) for s in ((T, B, 2 * H), (4, B, H), (4, B, cells(cell) * H)))
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "dropout": 0.3, "seed": 2**40 + 7, "call": 2}

    def run(given: dict[str, Array]) -> Any:
        own = {k: given[k] for k in params}
        return reference.stack(cell, own, given["x"], given["h_0"], given.get("c_0"), (2, 0, 3), **options)

    def loss(given: dict[str, Array]) -> float:
        y, h_n, c_n, _ = run(given)
        return float((y * dy).sum() + (h_n * dh_n).sum() + (0 if c_n is None else (c_n * dc_n).sum()))

    saved = run(inputs)[3]
    dropped = [kept is not None and not kept.all() for kept in saved.kept]
    assert dropped == [True, False], "dropout is between the layers and not after the last"
    assert_slopes(reference.stack_backward(saved, dy, dh_n, dc_n), differences(loss, inputs))


@pytest.mark.parametrize("bidirectional", [False, True], ids=["d1", "d2"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("lengths", [None, (5, 1, 3, 5)], ids=["full", "lengths"])
@pytest.mark.parametrize("cell", [cell for cell in PLAIN if cell != "linear"])
def test_stack_against_torch(cell: str, lengths: tuple[int, ...] | None, bias: bool, bidirectional: bool) -> None:
    """Outputs, states and every gradient of two layers; two float64 computations differ by rounding alone."""
    T, B, features, H, L, D = 5, 4, 3, 6, 2, 2 if bidirectional else 1
    torch.manual_seed(1)
    kind: Any = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}.get(cell, torch.nn.RNN)
    extra = {"nonlinearity": cell.removeprefix("rnn_")} if cell.startswith("rnn_") else {}
    module = kind(features, H, L, bias=bias, bidirectional=bidirectional, dtype=torch.float64, **extra)
    x = torch.randn(T, B, features, dtype=torch.float64, requires_grad=True)
    states = [
        torch.randn(L * D, B, H, dtype=torch.float64, requires_grad=True) for _ in range(2 if cell == "lstm" else 1)
    ]
    dy = torch.randn(T, B, D * H, dtype=torch.float64)
    dstates = [torch.randn(L * D, B, H, dtype=torch.float64) for _ in states]
    given = (
        x
        if lengths is None
        else torch.nn.utils.rnn.pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    )
    y, finals = module(given, tuple(states) if cell == "lstm" else states[0])
    y = y if lengths is None else torch.nn.utils.rnn.pad_packed_sequence(y, total_length=T)[0]
    finals = finals if cell == "lstm" else (finals,)
    torch.autograd.backward([y, *finals], [dy, *dstates])

    params = {name: value.detach().numpy() for name, value in module.named_parameters()}
    h_0, c_0 = [s.detach().numpy() for s in states] + [None] * (2 - len(states))
    got_y, h_n, c_n, saved = reference.stack(
        cell, params, x.detach().numpy(), h_0, c_0, lengths, num_layers=L, bidirectional=bidirectional
    )
    got = {"y": got_y, "h_n": h_n} | ({} if c_n is None else {"c_n": c_n})
    got |= {f"d{k}": v for k, v in reference.stack_backward(saved, dy.numpy(), *[s.numpy() for s in dstates]).items()}
    wanted: dict[str, Any] = {"y": y, "dx": x.grad} | dict(zip(("h_n", "c_n"), finals, strict=False))
    wanted |= {name: state.grad for name, state in zip(("dh_0", "dc_0"), states, strict=False)}
    wanted |= {f"d{name}": value.grad for name, value in module.named_parameters()}
    assert got.keys() == wanted.keys()
    for name, value in wanted.items():
        exact = value.detach().numpy()
        # A sum of some tens of terms through 2 layers and 5 steps: 64 roundings of the tensor's size are plenty.
        assert np.abs(got[name] - exact).max() <= 64 * EPS * max(1.0, np.abs(exact).max()), name


def test_lengths_are_rows_alone() -> None:
    """A row of length n is the first n steps of that row; past its end y is 0; a row of length 0 is its state."""
    rng = np.random.default_rng(0)
    for cell in reference.CELLS:
        params = parameters(cell, 3, 4, rng)
        x, h_0 = rng.standard_normal((5, 3, 3)), rng.standard_normal((3, 4))
        c_0 = cell_state(cell, rng, (3, 4))
        c = c_0 if cells(cell) else None
        for reverse in (False, True):
            x[3:, 1] = x[:, 2] = np.nan
            y, h_n, c_n, _ = reference.layer(cell, params, x, h_0, c, (5, 3, 0), reverse)
            row = slice(1, 2)
            own = reference.layer(cell, params, x[:3, row], h_0[row], None if c is None else c[row], None, reverse)
            assert np.allclose(y[:3, row], own[0], rtol=0, atol=8 * EPS) and not y[3:, 1].any() and not y[:, 2].any()
            assert np.allclose(h_n[row], own[1], rtol=0, atol=8 * EPS) and np.array_equal(h_n[2], h_0[2])
            assert c_n is None or np.array_equal(c_n[2], c_0[2])


def test_longdouble_is_kept() -> None:
    """Where a parameter is longdouble, so is every result."""
    rng = np.random.default_rng(0)
    params = {name: value.astype(np.longdouble) for name, value in parameters("lstm", 2, 3, rng).items()}
    y, h_n, c_n, saved = reference.layer("lstm", params, rng.standard_normal((2, 2, 2)))
    assert c_n is not None
    results = [y, h_n, c_n, *reference.layer_backward(saved, np.ones((2, 2, 3))).values()]
    assert {value.dtype for value in results} == {np.dtype(np.longdouble)}


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_philox_known_answers(counter: str, key: str, answer: str) -> None:
    """philox4x32 10 of Random123's kat_vectors."""

    def words(text: str) -> Array:
        return np.array([int(word, 16) for word in text.split()], np.uint32)

    assert np.array_equal(reference.philox4x32(words(counter), words(key)), words(answer))
    many = np.broadcast_to(words(counter), (2, 3, 4))
    assert np.array_equal(reference.philox4x32(many, words(key)), np.broadcast_to(words(answer), (2, 3, 4)))


def test_dropout_mask() -> None:
    """Each element's bits come from its own counter; p = 0 keeps all, p = 1 none; the share kept is 1 - p."""
    kept = reference.dropout_kept((3, 2, 5), 0.25, seed=(9 << 32) | 5, call=4, stream=6)
    for t, row, unit in np.ndindex(kept.shape):
        counter = np.array([4, 6, t, row * 5 + unit], np.uint32)
        bits = int(reference.philox4x32(counter, np.array([5, 9], np.uint32))[0])
        assert kept[t, row, unit] == (bits >= 2**30)
    assert (
        reference.dropout_kept((3, 2, 5), 0.0, 1, 2, 3).all()
        and not reference.dropout_kept((3, 2, 5), 1.0, 1, 2, 3).any()
    )
    share = reference.dropout_kept((10, 10, 1000), 0.3, 0, 0, 0).mean()
    assert abs(share - 0.7) <= 4 * (0.3 * 0.7 / 1e5) ** 0.5  # four standard deviations of 1e5 draws
    x = np.array([[[np.nan, 2.0]]])
    assert np.array_equal(reference.thin(x, np.array([[[False, True]]]), 0.5), [[[0.0, 4.0]]])
