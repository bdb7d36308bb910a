"""The function of the flashrnn package (NX-AI/flashrnn) on a CPU: the recurrence with its input product given.

    from rnnkern.flashrnn import flashrnn

    states, last = flashrnn(Wx, R, b, function="slstm")    # Wx [B, T, G, N, D], R [G, N, D, D], b [G, N, D]
    y = states[0]                                          # [B, T, N, D]

N heads of D units each multiply their own h alone. Layouts, gate orders and equations are the package's
(flashrnn/vanilla): "lstm" has the gates i f z o, "slstm" i f z o, "elman" one; "gru" has r z n in Wx, n r z in R, and
four biases: of n's recurrent side, of r, of z, and of n's input side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

try:
    import torch
except ImportError as error:
    raise ImportError("rnnkern.flashrnn needs PyTorch 2.11 or later; install it with: pip install torch") from error

from torch import Tensor

from .torch.autograd import Call, records_gradient
from .torch.base import autocast_dtype
from .torch.given import as_layer, recurrence_of_gx, with_gx
from .torch.kernels import DTYPES, Around, Options, spec_of

__all__ = ["States", "flashrnn"]

_functorch = torch._C._functorch


class _Function(NamedTuple):
    cell: str
    states: int
    gates: tuple[int, int, int]  # in Wx, in R, in b
    recurrent: tuple[int, ...]  # where our gates stand in R
    bias_hh: tuple[int, ...]  # and in b


_FUNCTIONS = {
    "lstm": _Function("lstm", 2, (4, 4, 4), (0, 1, 2, 3), (0, 1, 2, 3)),
    "slstm": _Function("slstm", 4, (4, 4, 4), (0, 1, 2, 3), (0, 1, 2, 3)),
    "gru": _Function("gru", 1, (3, 3, 4), (1, 2, 0), (1, 2, 0)),
    "elman": _Function("rnn_tanh", 1, (1, 1, 1), (0,), (0,)),
}
_BACKENDS = ("vanilla", "vanilla_fwbw", "cuda", "cuda_fused", "triton_fused")


class States(Sequence[Tensor]):
    """The states of all steps, [S][B, T, N, D]: h alone, since the kernels give c, n and m of the last step only."""

    def __init__(self, h: Tensor, count: int) -> None:
        self._h, self._count = h, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if not isinstance(index, int):
            raise TypeError(f"states: expected an index, got {index!r}")
        if not -self._count <= index < self._count:
            raise IndexError(f"states: expected an index below {self._count}, got {index}")
        if index % self._count:
            raise NotImplementedError(
                f"states[{index}]: the kernels give h of every step, states[0], and the other states of the last step, "
                "which flashrnn returns second"
            )
        return self._h

    def __iter__(self) -> Iterator[Tensor]:
        return (self[index] for index in range(self._count))


def flashrnn(
    Wx: Tensor,
    R: Tensor,
    b: Tensor,
    states: Tensor | None = None,
    function: str = "lstm",
    config: Any = None,
    backend: str | None = None,
    dtype: str | None = None,
) -> tuple[States, Tensor]:
    """Run a recurrence over inputs that are multiplied already. Returns (states, last_states).

    Wx: [B, T, G, N, D], of float32, float64, bfloat16 or float16 on the CPU. G: 4 for "lstm" and "slstm", 3 for "gru",
        1 for "elman".
    R: [G, N, D, D]: of each gate and head, from all units of the head (last) to each.
    b: [G, N, D], for "gru" [4, N, D].
    states: [S, B, 1, N, D], the initial h, c (lstm, slstm), n and m (slstm), or None for zeros. For "slstm", n is at
        least 1 everywhere, as in all states that a call returns, or c and n are zero everywhere, and the states need no
        gradient; others raise NotImplementedError, because there the package's step has bounds of its own. A graph
        (torch.compile) and vmap over the states do not look at values.
    function: "lstm", "slstm", "gru" or "elman".
    config: None; NotImplementedError for a FlashRNNConfig.
    backend, dtype: names that the package knows, or None. They choose among the package's programs and change nothing
        here: the dtype is that of Wx, as with the package's backend "vanilla".

    states: ``States``, of which ``states[0]`` is h of every step, [B, T, N, D]; the package has a tensor there.
    last_states: [S, B, 1, N, D].

    Gradients reach Wx, R, b and states. Under autocast for the CPU, all are cast to its dtype. ValueError for a wrong
    shape or name, TypeError for a wrong dtype.
    """
    about = _about(function, config, backend, dtype)
    given = [tensor for tensor in (Wx, R, b, states) if isinstance(tensor, Tensor)]
    target = autocast_dtype(given, "cpu") if torch.is_autocast_enabled("cpu") else None
    if target is not None and len(given) == 3 + (states is not None):
        Wx, R, b, *rest = (tensor.to(target) for tensor in given)
        states = rest[0] if rest else None
    batch, steps, heads, units = _check(about, Wx, R, b, states)
    hidden = heads * units
    gx = Wx.reshape(batch, steps, about.gates[0] * hidden).transpose(0, 1)
    if function == "gru":  # the bias on n's input side is part of gx
        gx = torch.cat([gx[..., : 2 * hidden], gx[..., 2 * hidden :] + b[3].reshape(-1)], -1)
    in_order = about.recurrent == tuple(range(len(about.recurrent)))
    weight_hh = (R if in_order else R[list(about.recurrent)]).reshape(-1, units)
    bias_hh = (b if in_order else b[list(about.bias_hh)]).reshape(-1)
    rows = weight_hh.shape[0]
    unread = [torch.empty(shape, dtype=gx.dtype) for shape in ((rows, 0), (rows,))]  # weight_ih and bias_ih
    params = [unread[0], weight_hh, unread[1], bias_hh]
    h_0 = c_0 = None
    if states is not None:
        each = states.reshape(about.states, 1, batch, hidden)
        h_0 = each[0]
        if about.states > 1:
            c_0 = torch.cat(each[1:].unbind(0), -1)
    y, h_n, c_n = _run(about.cell, heads, gx, (h_0, c_0), params)
    last = [h_n] if c_n is None else [h_n, *(part.to(h_n.dtype) for part in c_n.split(hidden, -1))]
    whole = y.transpose(0, 1).reshape(batch, steps, heads, units)
    return States(whole, about.states), torch.stack(last).reshape(about.states, batch, 1, heads, units)


def _run(
    cell: str, heads: int, gx: Tensor, state: tuple[Tensor | None, Tensor | None], params: list[Tensor]
) -> tuple[Tensor, Tensor, Tensor | None]:
    (h_0, c_0), hidden = state, heads * params[1].shape[1]
    step = f'{{"heads": {heads}}}' if heads > 1 else ""
    options = Options(cell, 1, False, 0.0, False, False, step=step)
    if torch.compiler.is_compiling():
        return as_layer(options, gx, h_0, c_0, params, Around())
    spec = with_gx(spec_of(options, gx.dtype, gx.shape[-1], hidden, True))
    keep = records_gradient([gx, h_0, c_0, *params])
    return recurrence_of_gx(Call(options, spec, None, None, keep), gx, h_0, c_0, params)


def _about(function: str, config: Any, backend: str | None, dtype: str | None) -> _Function:
    if function not in _FUNCTIONS:
        raise ValueError(f"function: expected one of {', '.join(_FUNCTIONS)}, got {function!r}")
    if config is not None:
        raise NotImplementedError(f"config: expected None, got a {type(config).__name__}; pass function instead")
    if backend is not None and backend not in _BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(_BACKENDS)} or None, got {backend!r}")
    if dtype is not None and dtype not in DTYPES.values():
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES.values())} or None, got {dtype!r}")
    return _FUNCTIONS[function]


def _check(about: _Function, Wx: Tensor, R: Tensor, b: Tensor, states: Tensor | None) -> tuple[int, int, int, int]:
    """B, T, N, D."""
    given = {"Wx": Wx, "R": R, "b": b} | ({} if states is None else {"states": states})
    for name, tensor in given.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
        if tensor.device.type != "cpu":
            raise NotImplementedError(f"{name}: expected a tensor on the CPU, got one on {tensor.device}")
        if tensor.dtype not in DTYPES or tensor.dtype != Wx.dtype:
            expected = f"the dtype of Wx, {Wx.dtype}" if Wx.dtype in DTYPES else f"one of {', '.join(DTYPES.values())}"
            raise TypeError(f"{name}: expected {expected}, got {tensor.dtype}")
    if Wx.dim() != 5 or Wx.shape[2] != about.gates[0] or not Wx.shape[3] or not Wx.shape[4]:
        raise ValueError(f"Wx: expected [B, T, {about.gates[0]}, N, D], got {list(Wx.shape)}")
    batch, steps, _, heads, units = Wx.shape
    wanted = {"R": (about.gates[1], heads, units, units), "b": (about.gates[2], heads, units)}
    wanted["states"] = (about.states, batch, 1, heads, units)
    for name, tensor in given.items():
        if name != "Wx" and tensor.shape != wanted[name]:
            raise ValueError(f"{name}: expected {list(wanted[name])}, got {list(tensor.shape)}")
    hidden = torch.compiler.is_compiling() or (states is not None and _functorch.is_batchedtensor(states))
    if states is not None and about.cell == "slstm" and not hidden:
        c, n = states.detach()[1], states.detach()[2]
        fresh = bool(((c == 0) & (n == 0)).all()) and not (torch.is_grad_enabled() and states.requires_grad)
        if not (fresh or (n >= 1).all()):
            raise NotImplementedError(
                "states: expected n, states[2], to be at least 1 everywhere, or c and n to be zero everywhere in "
                "states that need no gradient"
            )
    return batch, steps, heads, units
