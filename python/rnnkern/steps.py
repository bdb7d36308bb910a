"""One step of each cell in the operations of a framework, for transforms that have no fused kernel.

Equations and order of operations are those of csrc/cells, for the plain cells and for the cells with options
(``rnnkern.options``). A framework gives an object of ``Operations``, and walks time with ``Steps.stepper``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from .options import Options

Tensor = Any  # of the framework
State = tuple[Tensor, ...]  # (h,) or (h, c): h [B, P], c [B, C], all other states side by side
Params = dict[str, Tensor]  # of one layer in one direction, by their names without suffix
_Function = Callable[[Tensor], Tensor]
_NORM_EPS = 1e-5  # torch.nn.LayerNorm's


class Operations(Protocol):
    """The functions that the steps ask of a framework. They work on elements, unless a comment says something else."""

    def sigmoid(self, v: Tensor) -> Tensor: ...
    def tanh(self, v: Tensor) -> Tensor: ...
    def relu(self, v: Tensor) -> Tensor: ...
    def exp(self, v: Tensor) -> Tensor: ...
    def expm1(self, v: Tensor) -> Tensor: ...
    def logsigmoid(self, v: Tensor) -> Tensor: ...
    def rsqrt(self, v: Tensor) -> Tensor: ...
    def clamp(self, v: Tensor, low: float | None, high: float) -> Tensor: ...
    def where(self, condition: Tensor, one: Tensor, other: Any) -> Tensor: ...
    def chunk(self, v: Tensor, parts: int) -> Sequence[Tensor]: ...  # equal parts of the last axis
    def concatenate(self, parts: Sequence[Tensor]) -> Tensor: ...  # along the last axis
    def mean(self, v: Tensor) -> Tensor: ...  # of the last axis, which stays with size 1
    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor: ...  # x weight^T + bias
    def heads(self, h: Tensor, weight: Tensor, heads: int) -> Tensor: ...  # linear with a block for each head
    def like(self, v: Tensor, other: Tensor) -> Tensor: ...  # v in the dtype of another


class Masks(NamedTuple):
    """The random masks of one layer in one direction."""

    kept: Tensor | None  # bool [B, P]: of h' in the recurrent product, in every step
    held: tuple[Tensor | None, Tensor | None]  # bool [T, B, P] and [T, B, H]: h and c stay what they were


class Cell(NamedTuple):
    gates: int
    states: int
    own: tuple[str, ...]  # the plain cell's activations
    plain: Callable[[Tensor, Tensor, State], State]  # (gx, gh, state) -> state
    # (own, options, params, gx, state, u) -> state; u: h' as the recurrent product sees it
    step: Callable[[tuple[str, ...], Options, Params, Tensor, State, Tensor], State]


class Steps:
    """The cells in the operations of one framework."""

    def __init__(self, ops: Operations) -> None:
        self.ops = ops
        # f(v, alpha, beta) as onnx/defs/rnn defines them. Where a branch is not taken, its slope has to be finite.
        self.activations: dict[str, Callable[[Tensor, float, float], Tensor]] = {
            "relu": lambda v, a, b: ops.relu(v),
            "tanh": lambda v, a, b: ops.tanh(v),
            "sigmoid": lambda v, a, b: ops.sigmoid(v),
            "affine": lambda v, a, b: a * v + b,
            "leakyrelu": lambda v, a, b: ops.where(v > 0, v, a * v),
            "thresholdedrelu": lambda v, a, b: ops.where(v > a, v, 0),
            "scaledtanh": lambda v, a, b: a * ops.tanh(b * v),
            "hardsigmoid": lambda v, a, b: ops.clamp(a * v + b, 0.0, 1.0),
            "elu": lambda v, a, b: ops.where(v < 0, a * ops.expm1(ops.clamp(v, None, 0.0)), v),
            "softsign": lambda v, a, b: v / (1 + abs(v)),
            "softplus": lambda v, a, b: -ops.logsigmoid(-v),
        }
        self.cells = {
            "rnn_tanh": Cell(1, 1, ("tanh",), self._elman(ops.tanh), self._elman_with),
            "rnn_relu": Cell(1, 1, ("relu",), self._elman(ops.relu), self._elman_with),
            "lstm": Cell(4, 2, ("sigmoid", "tanh", "tanh"), self._lstm, self._lstm_with),
            "gru": Cell(3, 1, ("sigmoid", "tanh"), self._gru, self._gru_with),
            "slstm": Cell(4, 4, ("sigmoid", "tanh"), self._slstm, self._slstm_with),
        }

    # Plain cells ----------------------------------------------------------------------------------------------------

    def _elman(self, f: _Function) -> Callable[[Tensor, Tensor, State], State]:
        return lambda gx, gh, _: (f(gx + gh),)

    def _lstm(self, gx: Tensor, gh: Tensor, state: State) -> State:
        ops = self.ops
        i, f, g, o = ops.chunk(gx + gh, 4)
        c = ops.sigmoid(f) * state[1] + ops.sigmoid(i) * ops.tanh(g)
        return ops.sigmoid(o) * ops.tanh(c), c

    def _gru(self, gx: Tensor, gh: Tensor, state: State) -> State:
        ops = self.ops
        xr, xz, xn = ops.chunk(gx, 3)
        hr, hz, hn = ops.chunk(gh, 3)
        z = ops.sigmoid(xz + hz)
        n = ops.tanh(xn + ops.sigmoid(xr + hr) * hn)
        return ((1 - z) * n + z * state[0],)

    def _slstm(self, gx: Tensor, gh: Tensor, state: State) -> State:
        ops = self.ops
        i, f, z, o = ops.chunk(gx + gh, 4)
        c, n, m = ops.chunk(state[1], 3)
        a = ops.logsigmoid(f) + m
        m = ops.where((n == 0) | ~(i < a), i, a)
        i, f = ops.exp(i - m), ops.exp(ops.clamp(a - m, None, 0.0))
        c, n = f * c + i * ops.tanh(z), f * n + i
        return ops.sigmoid(o) * ops.like(c / n, o), ops.concatenate((c, n, m))  # float32 beside half types

    # Options --------------------------------------------------------------------------------------------------------

    def _functions(self, own: tuple[str, ...], options: Options) -> list[_Function]:
        """The step's activations, each behind the bound of its input (LSTM's output activation has none). own: the
        plain cell's.
        """
        entries = options.activations or tuple((name, 0.0, 0.0) for name in own)

        def bounded(clip: float, name: str, alpha: float, beta: float) -> _Function:
            f = self.activations[name]
            return lambda v: f(self.ops.clamp(v, -clip, clip) if clip else v, alpha, beta)

        return [bounded(options.clip if place < 2 else 0.0, *entry) for place, entry in enumerate(entries)]

    def _normalised(self, v: Tensor) -> Tensor:
        v = v - self.ops.mean(v)
        return v * self.ops.rsqrt(self.ops.mean(v * v) + _NORM_EPS)

    def _side(self, p: Params, name: str, product: Tensor, norm: bool) -> Tensor:
        """gx of W x (name "ih"), gh of R h' ("hh")."""
        if norm:
            product = p[f"gamma_{name}"] * self._normalised(product)
        bias = p.get(f"bias_{name}")
        return product if bias is None else product + bias

    def _recurrent(self, p: Params, h: Tensor, o: Options, norm: bool) -> Tensor:
        """gh. R is diagonal where weight_hh is [H]; with heads there is one block for each of them on its diagonal."""
        weight = p["weight_hh"]
        if weight.ndim == 1:
            product = weight * h
        else:
            product = self.ops.linear(h, weight) if o.heads == 1 else self.ops.heads(h, weight, o.heads)
        return self._side(p, "hh", product, norm)

    def _elman_with(self, own: tuple[str, ...], o: Options, p: Params, gx: Tensor, state: State, u: Tensor) -> State:
        (f,) = self._functions(own, o)
        return (f(gx + self._recurrent(p, u, o, o.layer_norm)),)

    def _gru_with(self, own: tuple[str, ...], o: Options, p: Params, gx: Tensor, state: State, u: Tensor) -> State:
        (f, g), (h,) = self._functions(own, o), state
        xr, xz, xn = self.ops.chunk(gx, 3)
        hr, hz, hn = self.ops.chunk(self._recurrent(p, u, o, o.layer_norm), 3)
        r, z = f(xr + hr), f(xz + hz)
        gh = r * hn if o.reset_after else self.ops.chunk(self._recurrent(p, r * u, o, False), 3)[2]
        n = g(xn + gh)
        return ((1 - z) * n + z * h,)

    def _lstm_with(self, own: tuple[str, ...], o: Options, p: Params, gx: Tensor, state: State, u: Tensor) -> State:
        (f, g, act_h), (_, c) = self._functions(own, o), state
        vi, vf, vg, vo = self.ops.chunk(gx + self._recurrent(p, u, o, o.layer_norm), 4)
        if o.peephole:
            vi, vf = vi + p["peephole"][0] * c, vf + p["peephole"][1] * c
        i = f(vi)
        c = (1 - i if o.coupled else f(vf)) * c + i * g(vg)
        if o.peephole:
            vo = vo + p["peephole"][2] * c
        shown = p["gamma_c"] * self._normalised(c) + p["beta_c"] if o.layer_norm else c
        h = f(vo) * act_h(shown)
        return self.ops.linear(h, p["weight_hr"]) if o.proj_size else h, c

    def _slstm_with(self, own: tuple[str, ...], o: Options, p: Params, gx: Tensor, state: State, u: Tensor) -> State:
        return self._slstm(gx, self._recurrent(p, u, o, False), state)

    # Time -----------------------------------------------------------------------------------------------------------

    def stepper(
        self, name: str, o: Options | None, p: Params, x: Tensor, masks: Masks | None = None
    ) -> tuple[Tensor, Callable[[Tensor, State, Any], State]]:
        """x [T, B, I] -> gx [T, B, G*H] and the function (gx_t, state, t) -> state.

        o: None for the plain cell. masks: None as in evaluation, where zoneout mixes.
        """
        ops, cell = self.ops, self.cells[name]
        if o is None:
            weight, bias = p["weight_hh"], p.get("bias_hh")
            return ops.linear(x, p["weight_ih"], p.get("bias_ih")), lambda gx, state, _: cell.plain(
                gx, ops.linear(state[0], weight, bias), state
            )

        def step(gx: Tensor, state: State, t: Any) -> State:
            u = state[0]
            if masks is not None and masks.kept is not None:
                rate = o.recurrent_dropout
                u = ops.where(masks.kept, u * (1 / (1 - rate) if rate < 1 else 0), 0)
            answer = list(cell.step(cell.own, o, p, gx, state, u))
            for k, z in enumerate(o.zoneout[: len(state)]):
                if not z:
                    continue
                held = None if masks is None else masks.held[k]
                mixed = z * state[k] + (1 - z) * answer[k] if held is None else ops.where(held[t], state[k], answer[k])
                answer[k] = mixed
            return tuple(answer)

        return self._side(p, "ih", ops.linear(x, p["weight_ih"]), o.layer_norm), step
