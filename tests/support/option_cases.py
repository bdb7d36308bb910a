"""Combinations of a cell's options and of a call's structure, every pair of them at least once, and data for each.

    for case in CASES: data = make_case(case, "float32")

The list is made greedily and without chance: the same on every machine.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from one_layer import marks_of_walk
from problems import DTYPES, HALF, KINK, Array, smooth_slstm
from rnnkern import reference

CELL_OPTIONS: dict[str, dict[str, tuple[Any, ...]]] = {
    "lstm": {
        "peephole": (False, True),
        "coupled": (False, True),
        "proj_size": (0, 3),
        "layer_norm": (False, True),
        "activations": (None, ("hardsigmoid", "softsign", "elu"), ("softplus", "scaledtanh", "affine")),
    },
    "gru": {
        "reset_after": (True, False),
        "layer_norm": (False, True),
        "activations": (None, ("hardsigmoid", "softsign"), ("sigmoid", "leakyrelu")),
    },
    "rnn_tanh": {
        "layer_norm": (False, True),
        "independent": (False, True),
        "activations": (None, ("relu",), ("thresholdedrelu",), ("leakyrelu",), ("softplus",), ("affine",)),
    },
    "slstm": {},
}
SHARED: dict[str, tuple[Any, ...]] = {
    "clip": (None, 0.7),
    "zoneout": ((0.0, 0.0), (0.3, 0.2)),
    "recurrent_dropout": (0.0, 0.4),
    "heads": (1, 3),
    "lengths": (False, True),
    "reverse": (False, True),
    "mask": (False, True),
    "reset": (False, True),
    "train": (False, True),
    "bias": (True, False),
    "recompute": (False, True),
}
_LACKS = {"slstm": ("clip",)}
# Alpha and beta other than the defaults, so that a formula without them shows.
NUMBERS = {
    "hardsigmoid": (0.3, 0.4),
    "elu": (0.8, 0.0),
    "scaledtanh": (0.9, 0.7),
    "affine": (0.6, 0.1),
    "leakyrelu": (0.2, 0.0),
    "thresholdedrelu": (0.1, 0.0),
}


def values_of(cell: str) -> dict[str, tuple[Any, ...]]:
    """The options that a cell has, each with its values, the neutral one first."""
    shared = {name: values for name, values in SHARED.items() if name not in _LACKS.get(cell, ())}
    return CELL_OPTIONS[cell] | shared


def allowed_together(row: dict[str, Any]) -> bool:
    """What the library refuses by name (core/options.cpp), and what would say the same twice."""
    heads, norm = row.get("heads", 1) > 1, row.get("layer_norm", False)
    refused = (
        norm and (heads or not row.get("reset_after", True) or row.get("independent", False)),
        heads and (row.get("proj_size", 0) > 0 or row.get("independent", False)),
    )
    return not any(refused)


def pairwise(values: dict[str, tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Rows in which every allowed pair of values of two options stands at least once."""
    names = list(values)
    wanted = {
        ((a, i), (b, j))
        for a, b in itertools.combinations(names, 2)
        for i, j in itertools.product(range(len(values[a])), range(len(values[b])))
        if allowed_together({a: values[a][i], b: values[b][j]})
    }
    rows = []
    while wanted:
        (a, i), (b, j) = min(wanted)
        chosen = {a: i, b: j}
        for name in names:
            if name in chosen:
                continue
            best = (-1, 0)
            for k in range(len(values[name])):
                trial = chosen | {name: k}
                if not allowed_together({n: values[n][c] for n, c in trial.items()}):
                    continue
                gained = sum(((n, c), (name, k)) in wanted or ((name, k), (n, c)) in wanted for n, c in chosen.items())
                best = max(best, (gained, -k))
            chosen[name] = -best[1]
        rows.append({name: values[name][chosen[name]] for name in names})
        wanted -= {((x, chosen[x]), (y, chosen[y])) for x, y in itertools.combinations(names, 2)}
    return rows


@dataclass(frozen=True)
class Case:
    cell: str
    row: tuple[tuple[str, Any], ...]
    T: int = 4
    B: int = 3
    features: int = 3
    H: int = 9

    def __getitem__(self, name: str) -> Any:
        return dict(self.row).get(name, {"proj_size": 0, "layer_norm": False, "activations": None}.get(name))

    @property
    def P(self) -> int:
        return self["proj_size"] or self.H

    @property
    def kinked(self) -> bool:
        """Slopes that jump: where rounding moves an input across, both sides are right."""
        kinks = {"hardsigmoid", "leakyrelu", "relu", "thresholdedrelu"}
        return self["clip"] is not None or bool(kinks & set(self["activations"] or ()))

    def __str__(self) -> str:
        plain = {name: values[0] for name, values in values_of(self.cell).items()}
        said = [f"{name}={value}" for name, value in self.row if value != plain[name]]
        return f"{self.cell} t{self.T}b{self.B}h{self.H} " + (" ".join(said).replace("'", "") or "plain")


def cases() -> list[Case]:
    out = []
    for cell in CELL_OPTIONS:
        rows = pairwise(values_of(cell))
        for n, row in enumerate(rows):
            if cell != "lstm":
                row["zoneout"] = (row["zoneout"][0], 0.0)
            # H past one vector of every kernel, and a batch past its tiles, every other row; more steps than a block.
            size = ((4, 3, 3, 9), (3, 7, 5, 33), (5, 2, 4, 18), (23, 1, 2, 12), (2, 35, 7, 24))[n % 5]
            out.append(Case(cell, tuple(row.items()), *size))
        # Heads that end within a pair of bfloat16 terms, an even number of them; and heads that the matrix unit takes.
        plain = {name: values[0] for name, values in values_of(cell).items()}
        for heads, units in ((2, 22), (3, 96)):
            out.append(Case(cell, tuple((plain | {"heads": heads}).items()), 3, 5, 3, units))
    return out


CASES = cases()


@dataclass(frozen=True)
class CaseData:
    params: dict[str, Array]  # without suffix
    x: Array
    h_0: Array
    c_0: Array | None
    lengths: Array | None
    mask: Array | None
    reset: Array | None
    dy: Array
    dh_n: Array
    dc_n: Array | None
    random: tuple[int, int, int, int] | None
    options: reference.Options = field(default_factory=reference.Options)


def options_of(case: Case) -> reference.Options:
    own = {name: case[name] for name, _ in case.row if name in reference.Options.__dataclass_fields__}
    if own.get("activations"):
        own["activations"] = tuple((name, *NUMBERS.get(name, (0.0, 0.0))) for name in own["activations"])
    return reference.Options(**own)


@functools.lru_cache(maxsize=8)
def make_case(case: Case, dtype: str) -> CaseData:
    """Masked steps and padding hold NaN, which must not matter. Half types: values they can hold; states as float32."""
    kind = np.dtype(DTYPES[dtype])
    wide = np.dtype(np.float32) if dtype in HALF else kind
    options = options_of(case)
    T, B, features, H, P = case.T, case.B, case.features, case.H, case.P
    cells = reference.CELLS[case.cell].states - 1
    shapes = reference.parameter_shapes(case.cell, options, features, H, case["proj_size"])
    for draw in range(50):
        rng = np.random.default_rng([zlib.crc32(str(case).encode()), draw])

        def normal(shape: tuple[int, ...], into: Any, rng: Any = rng) -> Array:
            return rng.standard_normal(shape).astype(kind).astype(into)

        params = {
            name: (rng.uniform(-1, 1, shape) * max(P, 2) ** -0.5 + name.startswith("gamma")).astype(kind)
            for name, shape in shapes.items()
            if case["bias"] or not name.startswith("bias")
        }
        lengths = mask = reset = None
        if case["lengths"]:
            lengths = rng.integers(0, T + 1, B)
            lengths[0] = T
            lengths[1:][-1:] = 0
        if case["mask"]:
            mask = rng.random((T, B)) < 0.7
        if case["reset"]:
            reset = rng.random((T, B)) < 0.3
        x, dy = normal((T, B, features), kind), normal((T, B, P), kind)
        data = CaseData(
            params=params,
            x=x,
            h_0=normal((B, P), kind),
            c_0=normal((B, cells * H), wide) if cells else None,
            lengths=lengths,
            mask=mask,
            reset=reset,
            dy=dy,
            dh_n=normal((B, P), wide),
            dc_n=normal((B, cells * H), wide) if cells else None,
            random=(rng.integers(0, 2**63), 7, 2, 5) if case["train"] else None,  # type: ignore[arg-type]
            options=options,
        )
        if case.cell == "slstm":
            smooth_slstm(data.c_0, None, None, H)
            _, _, c_n, saved = _layer(case, data)
            smooth_slstm(None, data.dc_n, None if reference.nearest_kink(saved) > KINK[dtype] else c_n, H)
        # A unit within rounding of a kink may be on either of its sides.
        if not case.kinked or dtype in HALF or reference.nearest_kink(_layer(case, data)[3]) > 1e-5:
            break
    else:
        raise AssertionError(f"{case}: no data away from every kink")
    for hidden in (None if lengths is None else np.arange(T)[:, None] >= lengths, None if mask is None else ~mask):
        if hidden is not None:
            x[hidden] = dy[hidden] = np.nan
    return data


def _layer(case: Case, data: CaseData) -> Any:
    wide = np.longdouble if data.x.dtype == np.float64 else np.float64
    return reference.layer(
        case.cell,
        {name: value.astype(wide) for name, value in data.params.items()},
        data.x,
        data.h_0,
        data.c_0,
        data.lengths,
        case["reverse"],
        options=data.options,
        mask=data.mask,
        reset=marks_of_walk(data.reset, data.lengths, case["reverse"]),
        random=data.random,
    )


@functools.lru_cache(maxsize=8)
def judged(case: Case, dtype: str) -> dict[str, Array]:
    data = make_case(case, dtype)
    y, h_n, c_n, saved = _layer(case, data)
    grads = reference.layer_backward(saved, data.dy, data.dh_n, data.dc_n)
    results = {"y": y, "h_n": h_n} | ({} if c_n is None else {"c_n": c_n})
    return results | {f"d{name}": value for name, value in grads.items()}
