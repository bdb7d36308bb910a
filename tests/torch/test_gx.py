"""forward_gx: the layer's answers and gradients, with the input product formed by torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import rnnkern.torch as rt
from rnnkern.torch import kernels

T, B, IN, H = 6, 4, 3, 10
# Two orders of summation of the same product, through 6 steps; in gradients, sums over all steps and rows besides.
EPS = torch.finfo(torch.float64).eps
CLOSE = {"rtol": 1024 * EPS, "atol": 256 * EPS}
CLOSE_GRADIENTS = {"rtol": 2**16 * EPS, "atol": 1024 * EPS}
KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lstm": (rt.LSTM, {}),
    "gru": (rt.GRU, {"bias": False}),
    "rnn": (rt.RNN, {"nonlinearity": "relu"}),
    "slstm": (rt.sLSTM, {"heads": 2}),
    "two layers, both directions": (rt.LSTM, {"num_layers": 2, "bidirectional": True, "peephole": True}),
}


def made(kind: str, **more: Any) -> Any:
    layer, options = KINDS[kind]
    torch.manual_seed(0)
    return layer(IN, H, dtype=torch.float64, **options, **more)


def product(layer: Any, x: Tensor) -> Tensor:
    suffixes = ("_l0", "_l0_reverse")[: 1 + layer.bidirectional]
    weights = [(getattr(layer, "weight_ih" + s), getattr(layer, "bias_ih" + s, None)) for s in suffixes]
    return torch.cat([functional.linear(x, *pair) for pair in weights], -1)


def states_of(state: Any) -> list[Tensor]:
    return list(state) if isinstance(state, tuple) else [state]


@pytest.mark.parametrize("kind", KINDS)
def test_answers_and_gradients(kind: str) -> None:
    layer = made(kind, batch_first=True)
    x = torch.randn(B, T, IN, dtype=torch.float64, requires_grad=True)
    around = {"lengths": [6, 0, 3, 5], "mask": torch.rand(B, T) < 0.8}
    y, state = layer(x, **around)
    z, other = layer.forward_gx(product(layer, x), **around)
    torch.testing.assert_close(z, y, **CLOSE)
    for one, two in zip(states_of(other), states_of(state), strict=True):
        torch.testing.assert_close(one, two, **CLOSE)
    leaves = [x, *layer.parameters()]
    loss = [(y * y).sum() + states_of(state)[0].sum(), (z * z).sum() + states_of(other)[0].sum()]
    for one, two in zip(*(torch.autograd.grad(each, leaves) for each in loss), strict=True):
        torch.testing.assert_close(one, two, **CLOSE_GRADIENTS)


def test_transforms() -> None:
    layer = made("two layers, both directions")
    x = torch.randn(T, B, IN, dtype=torch.float64)
    gx = product(layer, x).detach().requires_grad_()
    y = layer.forward_gx(gx)[0]
    (expected,) = torch.autograd.grad(y.sum(), gx, retain_graph=True)
    found = torch.func.grad(lambda v: layer.forward_gx(v)[0].sum())(gx)
    torch.testing.assert_close(found, expected, **CLOSE_GRADIENTS)
    tangent = torch.randn_like(gx)
    _, moved = torch.func.jvp(lambda v: layer.forward_gx(v)[0].sum(), (gx,), (tangent,))
    torch.testing.assert_close(moved, (expected * tangent).sum(), **CLOSE_GRADIENTS)
    compiled = torch.compile(layer.forward_gx, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(gx)[0], y)
    rows = torch.autograd.grad(y, gx, torch.ones(2, *y.shape, dtype=y.dtype), is_grads_batched=True)[0]
    torch.testing.assert_close(rows[1], expected, **CLOSE_GRADIENTS)
    small = gx.detach()[:2, :1].requires_grad_()
    assert torch.autograd.gradgradcheck(lambda v: layer.forward_gx(v)[0], small)


def test_vmap_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = made("lstm")
    gx = torch.randn(5, T, B, 4 * H, dtype=torch.float64)
    calls = []
    forward = kernels.forward
    monkeypatch.setattr(kernels, "forward", lambda *args: calls.append(args) or forward(*args))
    y = torch.func.vmap(lambda v: layer.forward_gx(v)[0])(gx)
    assert len(calls) == 1
    torch.testing.assert_close(y[3], layer.forward_gx(gx[3])[0], **CLOSE)


def test_dropout_draws_the_masks_of_the_layer() -> None:
    layer = made("two layers, both directions", dropout=0.5)
    x = torch.randn(T, B, IN, dtype=torch.float64)
    torch.manual_seed(3)
    y = layer(x)[0]
    torch.manual_seed(3)
    torch.testing.assert_close(layer.forward_gx(product(layer, x))[0], y, **CLOSE)


def test_bad_input() -> None:
    layer = made("lstm")
    gx = torch.zeros(T, B, 4 * H, dtype=torch.float64)
    with pytest.raises(RuntimeError, match=r"gx: expected D\*G\*H = 40 columns, got 39"):
        layer.forward_gx(gx[..., :39])
    with pytest.raises(ValueError, match="does not match weight dtype"):
        layer.forward_gx(gx.float())
    with pytest.raises(TypeError, match=r"gx: expected a torch\.Tensor"):
        layer.forward_gx([1.0])
    with pytest.raises(TypeError, match=r"gx: expected a torch\.Tensor"):
        layer.forward_gx(torch.nn.utils.rnn.pack_sequence([gx[:, 0]]))
    with pytest.raises(NotImplementedError, match="without layer_norm"):
        rt.LSTM(IN, H, layer_norm=True).forward_gx(gx.float())
    graph = torch.compile(rt.LSTM(IN, H, layer_norm=True).forward_gx, backend="eager")
    with pytest.raises(NotImplementedError, match="without layer_norm"):
        graph(gx.float())
    with pytest.raises(NotImplementedError, match="call unfreeze"):
        layer.freeze().forward_gx(gx)
