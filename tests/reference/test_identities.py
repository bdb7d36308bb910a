"""What each option of the judge means: against the same network written without it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from reference_cases import EPS, IN, LENGTHS, B, H, T, close, data, parameters
from rnnkern import reference
from rnnkern.reference import Options

Array = np.ndarray[Any, Any]


def results(cell: str, params: dict[str, Array], *given: Any, **keywords: Any) -> dict[str, Array]:
    """y, final states, and every gradient for fixed gradients of those."""
    y, h_n, c_n, saved = reference.layer(cell, params, *given, **keywords)
    rng = np.random.default_rng(9)
    dy, dh_n = rng.standard_normal(y.shape), rng.standard_normal(h_n.shape)
    dc_n = None if c_n is None else rng.standard_normal(c_n.shape)
    out = {"y": y, "h_n": h_n} | ({} if c_n is None else {"c_n": c_n})
    return out | {f"d{name}": value for name, value in reference.layer_backward(saved, dy, dh_n, dc_n).items()}


def test_heads_of_one_unit_are_independent_units() -> None:
    rng = np.random.default_rng(4)
    for cell in ("rnn_tanh", "rnn_relu"):
        params = parameters(cell, Options(independent=True), rng)
        given = data(cell, rng)
        one = results(cell, params, *given, LENGTHS, options=Options(independent=True))
        columns = params | {"weight_hh": params["weight_hh"][:, None]}
        other = results(cell, columns, *given, LENGTHS, options=Options(heads=H))
        other["dweight_hh"] = other["dweight_hh"][:, 0]
        diagonal = results(cell, params | {"weight_hh": np.diag(params["weight_hh"])}, *given, LENGTHS)
        diagonal["dweight_hh"] = np.diag(diagonal["dweight_hh"])
        for name, value in one.items():
            close(other[name], value, name)
            close(diagonal[name], value, name)


@pytest.mark.parametrize("cell", ["rnn_tanh", "lstm", "gru", "gru_before"])
def test_a_head_is_a_network_of_its_own(cell: str) -> None:
    """Three heads give what three layers of a third of the units give, side by side."""
    before, cell = cell == "gru_before", cell.removesuffix("_before")
    options, rng, part = Options(heads=3, reset_after=not before), np.random.default_rng(5), H // 3
    params = parameters(cell, options, rng)
    x, h_0, c_0 = data(cell, rng)
    whole = results(cell, params, x, h_0, c_0, options=options)
    gates = params["bias_ih"].size // H
    for head in range(3):
        units = slice(head * part, (head + 1) * part)
        rows = np.arange(gates * H).reshape(gates, H)[:, units].ravel()
        own = {name: value[rows] for name, value in params.items()}
        y, h_n, c_n, _ = reference.layer(
            cell, own, x, h_0[:, units], None if c_0 is None else c_0[:, units], options=Options(reset_after=not before)
        )
        close(whole["y"][:, :, units], y)
        close(whole["h_n"][:, units], h_n)
        assert c_n is None or np.abs(whole["c_n"][:, units] - c_n).max() <= 64 * EPS * np.abs(c_n).max()


CELLS = {
    "rnn_tanh": ("rnn_tanh", Options()),
    "lstm": ("lstm", Options(peephole=True)),
    "gru": ("gru", Options()),
    "gru_before": ("gru", Options(reset_after=False)),
}


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("case", list(CELLS))
def test_a_mask_drops_steps_from_the_sequence(case: str, reverse: bool) -> None:
    """Row by row the marked steps alone, without mask or lengths, give the rest; x and dy elsewhere are not read."""
    (cell, options), rng = CELLS[case], np.random.default_rng(6)
    params, (x, h_0, c_0) = parameters(cell, options, rng), data(cell, rng)
    mask = rng.random((T, B)) < 0.6
    mask[:, 0], mask[2, 1] = False, True
    takes = mask & (np.arange(T)[:, None] < np.array(LENGTHS))
    assert takes.any() and (mask & ~takes).any()
    dy = rng.standard_normal((T, B, H))
    x[~takes] = dy[~takes] = np.nan
    y, h_n, c_n, saved = reference.layer(cell, params, x, h_0, c_0, LENGTHS, reverse, options=options, mask=mask)
    grads = reference.layer_backward(saved, dy, h_n, c_n)
    sums = {name: np.zeros_like(grads[name]) for name in params}
    for b in range(B):
        row, steps = slice(b, b + 1), takes[:, b]
        own = reference.layer(
            cell, params, x[steps, row], h_0[row], None if c_0 is None else c_0[row], None, reverse, options=options
        )
        close(y[steps, row], own[0])
        close(h_n[row], own[1])
        assert not y[~steps, b].any() and not grads["x"][~steps, b].any()
        share = reference.layer_backward(own[3], dy[steps, row], own[1], own[2])
        close(grads["x"][steps, row], share["x"])
        close(grads["h_0"][row], share["h_0"])
        if c_n is not None and own[2] is not None:
            close(c_n[row], own[2])
            close(grads["c_0"][row], share["c_0"])
        for name in params:
            sums[name] += share[name]
    for name, value in sums.items():
        close(grads[name], value, name)
    assert np.array_equal(h_n[0], h_0[0]), "a row without a step keeps its state"


@pytest.mark.parametrize("bidirectional", [False, True], ids=["reverse", "both"])
@pytest.mark.parametrize("case", list(CELLS))
def test_a_reset_cuts_the_sequence_in_pieces(case: str, bidirectional: bool) -> None:
    """Before step 2 of every row: the pieces are run separately, each from zero but where the walk begins."""
    (cell, options), rng, D = CELLS[case], np.random.default_rng(7), 2 if bidirectional else 1
    params = {f"{n}{reference.suffix(0, d)}": v for d in range(D) for n, v in parameters(cell, options, rng).items()}
    x, h_0, c_0 = rng.standard_normal((T, B, IN)), rng.standard_normal((D, B, H)), rng.standard_normal((D, B, H))
    reset = np.zeros((T, B), bool)
    reset[2] = True
    keywords: dict[str, Any] = {"bidirectional": bidirectional, "reverse": not bidirectional, "options": options}
    c = c_0 if cell == "lstm" else None
    y, h_n, c_n, saved = reference.stack(cell, params, x, h_0, c, reset=reset, **keywords)

    def started(first: bool) -> list[Array | None]:
        """Forward's states enter the first piece, reverse's the last."""
        directions = [first, not first] if bidirectional else [not first]
        enters = np.array(directions)[:, None, None]
        return [s if s is None else np.where(enters, s, 0) for s in (h_0, c)]

    one = reference.stack(cell, params, x[:2], *started(True), **keywords)
    two = reference.stack(cell, params, x[2:], *started(False), **keywords)
    close(y, np.concatenate([one[0], two[0]]))
    ends = [two, one] if bidirectional else [one]  # forward ends in the last piece, reverse in the first
    close(h_n, np.stack([run[1][d] for d, run in enumerate(ends)]))
    if c_n is not None:
        close(c_n, np.stack([run[2][d] for d, run in enumerate(ends)]))
    grads, dy = reference.stack_backward(saved, y), [run[0] for run in (one, two)]
    parts = [reference.stack_backward(run[3], d) for run, d in zip((one, two), dy, strict=True)]
    close(grads["x"], np.concatenate([part["x"] for part in parts]))
    for name in params:
        close(grads[name], parts[0][name] + parts[1][name], name)
    enters = [parts[0]["h_0"][0], parts[1]["h_0"][1]] if bidirectional else [parts[1]["h_0"][0]]
    close(grads["h_0"], np.stack(enters))


def test_marks_where_nothing_is_read() -> None:
    """A mark at step 0 zeroes the initial state forward; one in a row's padding does nothing, in either direction."""
    rng = np.random.default_rng(8)
    params, (x, h_0, c_0) = parameters("lstm", Options(), rng), data("lstm", rng)
    late = np.arange(T)[:, None] >= np.array(LENGTHS)
    for reverse in (False, True):
        named = {f"{name}_l0": value for name, value in params.items()}
        assert c_0 is not None
        runs = [
            reference.stack("lstm", named, x, h_0[None], c_0[None], LENGTHS, reverse=reverse, reset=marks)
            for marks in (late, None)
        ]
        assert all(np.array_equal(a, b) for a, b in zip(runs[0][:3], runs[1][:3], strict=True) if b is not None)
    first = np.arange(T)[:, None] == np.zeros(B)
    cleared, zeros = (
        reference.layer("lstm", params, x, h_0, c_0, reset=first),
        reference.layer("lstm", params, x),
    )
    assert np.array_equal(cleared[0], zeros[0])
    held = reference.layer("lstm", params, x, h_0, c_0, reset=first, mask=np.zeros((T, B), bool))
    assert not held[1].any() and not reference.layer_backward(held[3], None, h_0)["h_0"].any()
