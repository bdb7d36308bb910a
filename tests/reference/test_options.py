"""The judge's options, judged: every gradient against central differences, alone and in pairs of options.

What an option means is held against torch, ONNX and rewritings of the network in tests/reference/test_peers.py and
tests/reference/test_identities.py.

A tensor's gradient is compared along random directions: a wrong entry changes the slope along almost every one.
Everything is longdouble, and the data are such that no activation's input is near a kink.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from rnnkern import reference

Array = np.ndarray[Any, Any]

EPS = float(np.finfo(np.longdouble).eps)
STEP = EPS ** (1 / 3)  # balances rounding, EPS / STEP, against the third derivative, STEP**2
T, B, IN, H, P = 4, 3, 2, 4, 2
LENGTHS = (4, 0, 3)
CELLS = ("linear", "rnn_tanh", "rnn_relu", "lstm", "gru")
SMOOTH = {
    "lstm": ("scaledtanh", "softplus", "affine"),
    "gru": ("softplus", "scaledtanh"),
    **dict.fromkeys(("linear", "rnn_tanh", "rnn_relu"), ("sigmoid",)),
}
BENT = {  # the last of the LSTM's has no kink at 0, where c stays when both of its gates are closed
    "lstm": ("hardsigmoid", "softsign", "scaledtanh"),
    "gru": ("hardsigmoid", "leakyrelu"),
    "linear": ("thresholdedrelu",),
    "rnn_tanh": ("elu",),
    "rnn_relu": ("softsign",),
}

# Settings of ``Case``, by name. Those that are one argument's cannot stand in one pair.
SETTINGS: dict[str, dict[str, Any]] = {
    "peephole": {"peephole": True},
    "coupled": {"coupled": True},
    "clip": {"clip": 0.7},
    "smooth": {"activations": SMOOTH},
    "bent": {"activations": BENT},
    "before": {"reset_after": False},
    "norm": {"layer_norm": True},
    "zone_train": {"zoneout": (0.3, 0.4), "train": True},
    "zone_mix": {"zoneout": (0.3, 0.4)},
    "recurrent": {"recurrent_dropout": 0.4, "train": True},
    "heads": {"heads": 2},
    "independent": {"independent": True},
    "projection": {"proj_size": P},
    "nobias": {"bias": False},
    "mask": {"mask": True},
    "reset": {"reset": True},
    "lengths": {"lengths": True},
    "reverse": {"reverse": True},
}
ONLY = {
    **dict.fromkeys(("peephole", "coupled", "projection"), ("lstm",)),
    "before": ("gru",),
    "independent": ("linear", "rnn_tanh", "rnn_relu"),
}
UNDEFINED = [{"norm", "before"}, {"norm", "heads"}, {"norm", "independent"}, {"heads", "independent"}]


@dataclass(frozen=True)
class Case:
    cell: str
    settings: frozenset[str]

    def __str__(self) -> str:
        return "-".join([self.cell, *sorted(self.settings)])

    def merged(self) -> dict[str, Any]:
        return {name: value for s in sorted(self.settings) for name, value in SETTINGS[s].items()}


@dataclass(frozen=True)
class Problem:
    """A case with its data: ``run`` is the forward pass as a function of everything that has a gradient."""

    case: Case
    inputs: dict[str, Array]
    seeds: dict[str, Array]  # dy, dh_n, dc_n
    arguments: dict[str, Any]

    def run(self, inputs: Mapping[str, Array]) -> Any:
        params = {name: value for name, value in inputs.items() if name not in ("x", "h_0", "c_0")}
        return reference.layer(self.case.cell, params, inputs["x"], inputs["h_0"], inputs.get("c_0"), **self.arguments)

    def loss(self, inputs: Mapping[str, Array]) -> Any:
        y, h_n, c_n, _ = self.run(inputs)
        total = (np.where(y == 0, 0, y * self.seeds["dy"])).sum() + (h_n * self.seeds["dh_n"]).sum()
        return total if c_n is None else total + (c_n * self.seeds["dc_n"]).sum()


def options_of(cell: str, merged: Mapping[str, Any]) -> reference.Options:
    names = ("peephole", "coupled", "clip", "reset_after", "layer_norm", "recurrent_dropout", "heads", "independent")
    chosen = {name: merged[name] for name in names if name in merged}
    if "zoneout" in merged:
        chosen["zoneout"] = merged["zoneout"] if cell == "lstm" else (merged["zoneout"][0], 0.0)
    if "activations" in merged:
        chosen["activations"] = tuple((name, 0.6, 0.3) for name in merged["activations"][cell])
    return reference.Options(**chosen)


def make(case: Case, draw: int) -> Problem:
    """Steps that are not to be read hold NaN."""
    rng = np.random.default_rng([zlib.crc32(str(case).encode()), draw])
    merged, cell = case.merged(), case.cell
    options, proj, width = options_of(cell, merged), merged.get("proj_size", 0), merged.get("proj_size", 0) or H
    shapes = reference.parameter_shapes(cell, options, IN, H, proj)
    if not merged.get("bias", True):
        shapes = {name: shape for name, shape in shapes.items() if name not in ("bias_ih", "bias_hh", "beta_c")}
    inputs = {name: 0.6 * normal(rng, shape) + name.startswith("gamma") for name, shape in shapes.items()}
    inputs |= {"x": normal(rng, (T, B, IN)), "h_0": normal(rng, (B, width))}
    if cell == "lstm":
        inputs["c_0"] = normal(rng, (B, H))
    seeds = {"dy": normal(rng, (T, B, width)), "dh_n": normal(rng, (B, width)), "dc_n": normal(rng, (B, H))}
    arguments: dict[str, Any] = {"options": options, "reverse": merged.get("reverse", False)}
    unread = np.zeros((T, B), bool)
    if "lengths" in merged:
        arguments["lengths"] = LENGTHS
        unread |= np.arange(T)[:, None] >= np.array(LENGTHS)
    if "mask" in merged:
        arguments["mask"] = np.array([[1, 1, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]], bool)
        unread |= ~arguments["mask"]
    if "reset" in merged:
        arguments["reset"] = np.array([[0, 0, 0], [0, 1, 0], [1, 0, 1], [0, 0, 0]], bool)
    if merged.get("train"):
        arguments["random"] = (2**40 + 7, draw, 1, 5)  # a draw may drop every unit
    inputs["x"][unread] = np.nan
    seeds["dy"][unread] = np.nan
    return Problem(case, inputs, seeds, arguments)


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.standard_normal(shape).astype(np.longdouble)


def decided(case: Case) -> tuple[Problem, dict[str, Array]]:
    """A problem whose slopes the differences can show, and its gradients by the judge.

    A step in one direction moves an activation's input by some STEP: kinks are to be 1000 of those away. And no
    tensor's gradient may vanish, as it does where all that passes it on is saturated: that would test nothing.
    """
    for draw in range(50):
        problem = make(case, draw)
        y, h_n, _, saved = problem.run(problem.inputs)
        assert np.isfinite(y).all() and np.isfinite(h_n).all()
        grads = reference.layer_backward(saved, *(problem.seeds[name] for name in ("dy", "dh_n", "dc_n")))
        if reference.nearest_kink(saved) > 1000 * STEP and all(np.abs(grad).max() > 0 for grad in grads.values()):
            return problem, grads
    raise AssertionError(f"{case}: a gradient is zero in every draw, or a kink near")


def assert_slopes(loss: Any, inputs: Mapping[str, Array], grads: Mapping[str, Array]) -> None:
    """The gradients are those of loss(inputs), for every input."""
    assert grads.keys() == inputs.keys()
    rng = np.random.default_rng(0)
    for name, grad in grads.items():
        value = inputs[name]
        assert grad.shape == value.shape and grad.dtype == np.longdouble and np.isfinite(grad).all(), name
        for _ in range(2):
            along = normal(rng, value.shape)
            ends = [loss({**inputs, name: value + sign * STEP * along}) for sign in (1, -1)]
            slope, got = (ends[0] - ends[1]) / (2 * STEP), (grad * along).sum()
            size = max(1.0, float(np.abs(grad * along).sum()))
            # The error is STEP**2 times a third derivative, here up to thousands, and some EPS / STEP.
            assert abs(got - slope) <= 1e4 * EPS ** (2 / 3) * size, f"{name}: got {got}, differences say {slope}"


def defined(case: Case) -> bool:
    """Whether the cell has the settings, and any two of them are defined together and are not one argument's."""
    s = case.settings
    if any(case.cell not in ONLY.get(name, CELLS) for name in s) or any(pair <= s for pair in UNDEFINED):
        return False
    return not {"smooth", "bent"} <= s and not ("zone_mix" in s and s & {"zone_train", "recurrent"})


def chosen(cell: str, numbers: tuple[int, ...]) -> list[Case]:
    """Every case of so many settings."""
    found = (Case(cell, frozenset(s)) for number in numbers for s in itertools.combinations(SETTINGS, number))
    return [case for case in found if defined(case)]


def covering(cell: str) -> list[Case]:
    """Cases of as many settings as go together, such that every pair that goes together stands in one."""
    missing = {case.settings for case in chosen(cell, (2,))}
    out = []
    while missing:
        case = Case(cell, min(missing, key=sorted))
        while more := [new for name in SETTINGS if defined(new := Case(cell, case.settings | {name})) and new != case]:
            case = max(more, key=lambda new: sum(pair <= new.settings for pair in missing))
        missing -= {pair for pair in missing if pair <= case.settings}
        out.append(case)
    return out


ONE_AND_TWO = [case for cell in CELLS for case in chosen(cell, (0, 1, 2))]
BOTH = [Case(c.cell, c.settings | {"lengths", "reverse"}) for cell in CELLS for c in chosen(cell, (1,))]
TOGETHER = [case for cell in CELLS for case in covering(cell)]
ALL = list(dict.fromkeys([*ONE_AND_TWO, *BOTH, *TOGETHER]))


@pytest.mark.parametrize("case", ALL, ids=str)
def test_layer_gradients(case: Case) -> None:
    """Every option alone, with every other (lengths and reverse among them), with both of those, and many together."""
    problem, grads = decided(case)
    assert_slopes(problem.loss, problem.inputs, grads)


@pytest.mark.parametrize("reverse", [False, True], ids=["both", "reverse"])
@pytest.mark.parametrize(
    ("cell", "settings"),
    [
        ("lstm", ("peephole", "norm", "projection")),
        ("lstm", ("coupled", "heads", "smooth")),
        ("gru", ("before", "heads")),
        ("gru", ("norm",)),
        ("rnn_tanh", ("independent",)),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_stack_gradients(cell: str, settings: tuple[str, ...], reverse: bool) -> None:
    """Two layers of both directions, or of the reverse one: dropout between, random masks, mask, reset, lengths."""
    every = ("zone_train", "recurrent", "mask", "reset", "lengths")
    below = make(Case(cell, frozenset(settings + every)), 0)
    options, width = below.arguments["options"], below.seeds["dy"].shape[2]
    directions, rng = (1 if reverse else 2), np.random.default_rng(1)
    inputs = {"x": below.inputs["x"], "h_0": normal(rng, (2 * directions, B, width))}
    inputs |= {"c_0": normal(rng, (2 * directions, B, H))} if cell == "lstm" else {}
    dy, dh_n = normal(rng, (T, B, directions * width)), normal(rng, (2 * directions, B, width))
    dc_n = normal(rng, (2 * directions, B, H))
    for k, d in itertools.product(range(2), range(directions)):
        features = directions * width if k else IN
        shapes = reference.parameter_shapes(cell, options, features, H, width if "projection" in settings else 0)
        inputs |= {name + reference.suffix(k, d): 0.6 * normal(rng, shape) for name, shape in shapes.items()}
    keywords = {name: below.arguments[name] for name in ("options", "mask", "reset")}
    sizes = {"num_layers": 2, "bidirectional": not reverse, "reverse": reverse}

    def run(given: Mapping[str, Array]) -> Any:
        params = {name: value for name, value in given.items() if name not in ("x", "h_0", "c_0")}
        return reference.stack(
            cell, params, given["x"], given["h_0"], given.get("c_0"), LENGTHS, **keywords, **sizes,
            dropout=0.3, seed=2**35 + 1, call=8, first_step=2,
        )  # fmt: skip

    def loss(given: Mapping[str, Array]) -> Any:
        y, h_n, c_n, _ = run(given)
        return (y * dy).sum() + (h_n * dh_n).sum() + (0 if c_n is None else (c_n * dc_n).sum())

    grads = reference.stack_backward(run(inputs)[3], dy, dh_n, dc_n)
    assert all(np.abs(grad).max() > 0 for grad in grads.values())
    assert_slopes(loss, inputs, grads)
