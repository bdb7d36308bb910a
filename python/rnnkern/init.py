"""Initial values of the parameters of a layer, from their names and shapes.

    layer = rk.LSTM(64, 128)
    layer.update(rk.init.initialise(layer, forget_bias=1.0, seed=0))         # glorot, orthogonal, zero biases
    layer.update(rk.init.initialise(layer, chrono=1000, seed=0))             # memories of up to 1000 steps
    layer.update(rk.init.keras(layer, seed=0))                               # Keras' defaults

Every function takes a layer, a cell, or a mapping of names to shapes, and returns new arrays by name, for ``update``.
All values are drawn in float64 from ``numpy.random.default_rng(seed)``, in the order of the names, and are then rounded
to the dtype of the layer. So the same seed gives the same values in every dtype, up to rounding. Without these
functions, a layer has the initial values of torch.nn (``pytorch``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .weights import ORDER, initial

Array = np.ndarray[Any, Any]
Shapes = Mapping[str, tuple[int, ...]]
# A rule for a matrix of ``blocks`` equal blocks of rows, one for each gate (and head): draws it as float64. ``shape``
# is the parameter's; a rule that has no meaning for it raises ValueError.
Rule = Callable[[np.random.Generator, tuple[int, ...], int], Array]

_KIND = re.compile(r"(weight_(?:ih|hh|hr)|bias_(?:ih|hh)|peephole|gamma_(?:ih|hh|c)|beta_c)(_l\d+(_reverse)?)?")
_CELL = {1: "rnn", 3: "gru", 4: "lstm"}


# --- rules ------------------------------------------------------------------


def zeros(generator: np.random.Generator, shape: tuple[int, ...], blocks: int) -> Array:
    """All zero; draws nothing."""
    return np.zeros(shape)


def glorot(generator: np.random.Generator, shape: tuple[int, ...], blocks: int) -> Array:
    """Draw each block from U(-a, a) with a = sqrt(6 / (inputs + outputs)) of the block (Glorot & Bengio 2010)."""
    rows, columns = _matrix(shape)
    bound = math.sqrt(6.0 / (rows // blocks + columns))
    return generator.uniform(-bound, bound, shape)


def glorot_joint(generator: np.random.Generator, shape: tuple[int, ...], blocks: int) -> Array:
    """Draw all gates as one matrix, as Keras draws its kernel. The bound is smaller by up to sqrt(G)."""
    return glorot(generator, shape, 1)


def orthogonal(generator: np.random.Generator, shape: tuple[int, ...], blocks: int) -> Array:
    """Draw each block uniformly from the matrices with orthonormal rows, or orthonormal columns if those are fewer.

    (Saxe, McClelland & Ganguli 2013, arXiv 1312.6120.) This is the Q of a normal matrix, with the signs of the diagonal
    of R in its columns: without them, Q is not uniform (Mezzadri 2007, arXiv math-ph/0609050).
    """
    rows, columns = _matrix(shape)
    return np.concatenate([_orthonormal(generator, rows // blocks, columns) for _ in range(blocks)])


def orthogonal_joint(generator: np.random.Generator, shape: tuple[int, ...], blocks: int) -> Array:
    """Draw all gates as one matrix [G*H, H] with orthonormal columns, as Keras draws its recurrent kernel."""
    return orthogonal(generator, shape, 1)


def indrnn(steps: int, *, gamma: float = 2.0, low: float = 0.0) -> Rule:
    """Return the rule U(low, gamma^(1/steps)) for ``weight_hh`` [H] of an IndRNN (Li et al. 2018, arXiv 1803.04831).

    steps: the sequence length of training. Keep the weights within ``indrnn_bound`` during training, too.
    low: the lower bound. With a value near 1, as the paper uses in the last layer, units only remember.

    Raises ValueError if the range is empty.
    """
    high = indrnn_bound(steps, gamma=gamma)
    if not -high <= low < high:
        raise ValueError(f"low: expected a number in [{-high}, {high}), got {low!r}")

    def rule(generator: np.random.Generator, shape: tuple[int, ...], blocks: int) -> Array:
        if len(shape) != 1:
            raise ValueError(f"expected a vector [H] for IndRNN's rule, got the shape {list(shape)}")
        return generator.uniform(low, high, shape)

    return rule


def indrnn_bound(steps: int, *, gamma: float = 2.0) -> float:
    """Return gamma^(1/steps), a bound of |weight_hh| of an IndRNN (Li et al. 2018, arXiv 1803.04831, with gamma 2).

    Within this bound, a gradient grows by at most a factor gamma through ``steps`` relu steps. After a step of the
    optimiser, ``layer.update({name: np.clip(weight, -bound, bound)})`` keeps the weights within it.

    Raises ValueError for steps < 1 or gamma <= 0.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps!r}")
    if not gamma > 0:
        raise ValueError(f"gamma: expected a positive number, got {gamma!r}")
    return float(gamma ** (1.0 / steps))


RULES: dict[str, Rule] = {
    "zeros": zeros,
    "glorot": glorot,
    "glorot_joint": glorot_joint,
    "orthogonal": orthogonal,
    "orthogonal_joint": orthogonal_joint,
}


# --- whole layers -----------------------------------------------------------


def initialise(
    layer: Any,
    *,
    weight_ih: str | Rule = "glorot",
    weight_hh: str | Rule = "orthogonal",
    bias: str | Rule = "zeros",
    forget_bias: float | None = None,
    chrono: float | None = None,
    seed: int = 0,
    dtype: Any = None,
    hidden_size: int | None = None,
) -> dict[str, Array]:
    """Return initial values of every parameter of ``layer`` by name, for ``layer.update``.

    layer: a layer, a cell, or a mapping of names to shapes.
    weight_ih, weight_hh, bias: a name in ``RULES``, "pytorch" (U(-1/sqrt(H), 1/sqrt(H)), as torch.nn.RNNBase),
        ``indrnn(steps)``, or a rule of your own. weight_hr is drawn by the rule of weight_ih. Peepholes and the shifts
        of a layer norm are 0 and its gains are 1, so the network starts as one without them.
    forget_bias: for LSTM and sLSTM: the sum of the two biases of the forget gate. bias_ih gets this value and bias_hh
        gets 0. Jozefowicz et al. 2015 recommend 1.0. A coupled LSTM does not use these biases.
    chrono: for LSTM and GRU: T_max >= 2, about the longest dependency in steps (Tallec & Ollivier 2018, arXiv
        1804.11188). Each unit draws u from U(1, T_max - 1). In bias_ih, the forget gate gets log(u) and the input gate
        gets -log(u); in bias_hh, both get 0. In a GRU, h = (1 - z)*n + z*h', so z keeps the state as a forget gate
        does: a unit forgets in about 1 / (1 - sigmoid(b)) = 1 + exp(b) steps, and b_z = log(u) makes this U(2, T_max).
        (The sign is opposite for the leaky units of the paper, whose gate is the share of the new value.)
    dtype: only for a mapping: the dtype of the arrays, float32 by default. A layer has its own.
    hidden_size: only for a mapping of a layer with heads, in which it is not the width of weight_hh or weight_hr.

    Raises ValueError for names that are not those of a layer, for rules that do not fit a shape, and for an option that
    the cell or a layer without biases cannot have. Raises TypeError for a value that is no layer and no mapping.
    """
    shapes, dtype, hidden = _describe(layer, dtype, hidden_size)
    kinds = {name: _kind(name) for name in shapes}
    gates = _gates(shapes, hidden)
    _check_biases(gates, set(kinds.values()), forget_bias, chrono)
    if chrono is not None and _is_slstm(layer):
        raise ValueError(
            f"chrono: expected an LSTM or a GRU, whose input gate is a sigmoid, got {chrono!r} for an sLSTM"
        )
    inputs, biases = _rule("weight_ih", weight_ih, hidden), _rule("bias", bias, hidden)
    rules = {"weight_ih": inputs, "weight_hr": inputs, "weight_hh": _rule("weight_hh", weight_hh, hidden)}
    rules |= {"bias_ih": biases, "bias_hh": biases}
    generator = np.random.default_rng(seed)
    values: dict[str, Array] = {}
    for name, shape in shapes.items():
        kind = kinds[name]
        if kind not in rules:
            values[name] = np.ones(shape) if kind.startswith("gamma") else np.zeros(shape)
            continue
        blocks = 1 if kind == "weight_hr" else gates
        if kind == "weight_hh" and "weight_hr" not in kinds.values() and len(shape) == 2:
            if hidden % shape[1]:
                raise ValueError(f"{name}: expected a width that divides H = {hidden}, got {shape[1]}")
            blocks *= hidden // shape[1]  # heads
        try:
            value = np.array(rules[kind](generator, shape, blocks), np.float64)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        if value.shape != shape:
            raise ValueError(f"{name}: expected a rule that gives the shape {list(shape)}, got {list(value.shape)}")
        if kind.startswith("bias"):
            _set_gates(value.reshape(gates, hidden), kind, generator, forget_bias, chrono)
        values[name] = value
    return {name: value.astype(dtype) for name, value in values.items()}


def pytorch(layer: Any, *, seed: int = 0, dtype: Any = None, hidden_size: int | None = None) -> dict[str, Array]:
    """Return the initial values that a layer of rnnkern has for this seed: U(-1/sqrt(H), 1/sqrt(H)), as torch.nn.

    A layer norm, which torch.nn's recurrent layers do not have, starts as torch.nn.LayerNorm: gains 1, shifts 0.
    """
    shapes, dtype, hidden = _describe(layer, dtype, hidden_size)
    return initial(dict(shapes), hidden, dtype, seed)


def keras(layer: Any, *, seed: int = 0, dtype: Any = None, hidden_size: int | None = None) -> dict[str, Array]:
    """Return initial values with the default distributions of Keras, drawn by NumPy's generator.

    The kernel is glorot_uniform and the recurrent kernel orthogonal, each over all gates at once. Biases are 0, and 1
    for the forget gate of an LSTM (``unit_forget_bias``).
    """
    shapes, _, hidden = _describe(layer, dtype, hidden_size)
    biased = _gates(shapes, hidden) == 4 and any(_kind(name) == "bias_ih" for name in shapes)
    return initialise(
        layer, weight_ih="glorot_joint", weight_hh="orthogonal_joint", bias="zeros",
        forget_bias=1.0 if biased else None, seed=seed, dtype=dtype, hidden_size=hidden_size,
    )  # fmt: skip


# --- what they rest on ------------------------------------------------------


def _kind(name: str) -> str:
    """``weight_ih_l1_reverse`` -> ``weight_ih``."""
    found = _KIND.fullmatch(name)
    if found is None:
        raise ValueError(f"layer: expected parameters named as weight_ih_l0, bias_hh_l1_reverse, ..., got {name!r}")
    return found[1]


def _describe(layer: Any, dtype: Any, hidden_size: int | None) -> tuple[Shapes, np.dtype[Any], int]:
    """Shapes by name, the dtype and H."""
    params = getattr(layer, "params", None)
    if params is not None:
        if dtype is not None or hidden_size is not None:
            name, value = ("dtype", dtype) if dtype is not None else ("hidden_size", hidden_size)
            raise ValueError(f"{name}: expected None, a layer has its own, got {value!r}")
        shapes = {name: tuple(array.shape) for name, array in params.items()}
        dtype, hidden_size = next(iter(params.values())).dtype, layer.hidden_size
    elif isinstance(layer, Mapping):
        shapes = {name: tuple(int(length) for length in shape) for name, shape in layer.items()}
    else:
        raise TypeError(f"layer: expected a layer, a cell or a mapping of shapes, got {type(layer).__name__}")
    kinds = {_kind(name): shape for name, shape in shapes.items()}
    if "weight_ih" not in kinds or "weight_hh" not in kinds:
        raise ValueError(f"layer: expected weight_ih and weight_hh, got {', '.join(shapes) or 'nothing'}")
    hidden = kinds.get("weight_hr", kinds["weight_hh"])[-1] if hidden_size is None else hidden_size
    return shapes, np.dtype(np.float32 if dtype is None else dtype), hidden


def _is_slstm(layer: Any) -> bool:
    spec = getattr(layer, "spec", None)
    return spec is not None and spec.cell == "slstm"


def _gates(shapes: Shapes, hidden: int) -> int:
    rows = {shape[0] for name, shape in shapes.items() if _kind(name)[-3:] in ("_ih", "_hh")}
    gates = {height / hidden for height in rows} if hidden > 0 else set()
    if len(gates) != 1 or not gates <= _CELL.keys():
        raise ValueError(
            f"layer: expected weights and biases of 1, 3 or 4 gates of {hidden} units, got {sorted(rows)} rows"
        )
    return int(gates.pop())


def _rule(argument: str, rule: str | Rule, hidden: int) -> Rule:
    if callable(rule):
        return rule
    if rule == "pytorch":
        bound = 1.0 / math.sqrt(hidden)
        return lambda generator, shape, blocks: generator.uniform(-bound, bound, shape)
    if rule not in RULES:
        raise ValueError(f"{argument}: expected pytorch, {', '.join(RULES)} or a rule, got {rule!r}")
    return RULES[rule]


def _check_biases(gates: int, kinds: set[str], forget_bias: float | None, chrono: float | None) -> None:
    cell = _CELL[gates]
    if forget_bias is not None and chrono is not None:
        raise ValueError("chrono: expected None beside forget_bias, both set the same bias")
    if forget_bias is not None and (cell != "lstm" or not math.isfinite(forget_bias)):
        raise ValueError(f"forget_bias: expected a finite number and an LSTM, got {forget_bias!r} for {cell}")
    if chrono is not None and (cell == "rnn" or not 2 <= chrono < math.inf):
        raise ValueError(f"chrono: expected a T_max of at least 2 and an LSTM or a GRU, got {chrono!r} for {cell}")
    if (forget_bias is not None or chrono is not None) and "bias_ih" not in kinds:
        raise ValueError(
            f"{'chrono' if forget_bias is None else 'forget_bias'}: expected a layer with biases, got none"
        )


def _set_gates(
    values: Array, kind: str, generator: np.random.Generator, forget_bias: float | None, chrono: float | None
) -> None:
    """The rows of a bias [G, H] that forget_bias or chrono decide; bias_hh's are zero."""
    gates, hidden = values.shape
    rows: dict[str, Any] = {}
    if forget_bias is not None:
        rows = {"f": forget_bias}
    elif chrono is not None:
        times = np.log(generator.uniform(1.0, chrono - 1.0, hidden)) if kind == "bias_ih" else np.zeros(hidden)
        rows = {"z": times} if _CELL[gates] == "gru" else {"f": times, "i": -times}
    for gate, row in rows.items():
        values[ORDER[_CELL[gates]]["torch"].index(gate)] = row if kind == "bias_ih" else 0.0


def _matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2:
        raise ValueError(f"expected a matrix for this rule, got the shape {list(shape)}")
    return shape[0], shape[1]


def _orthonormal(generator: np.random.Generator, rows: int, columns: int) -> Array:
    q, r = np.linalg.qr(generator.standard_normal((max(rows, columns), min(rows, columns))))
    q = q * np.sign(np.diag(r))
    return q if rows >= columns else q.T
