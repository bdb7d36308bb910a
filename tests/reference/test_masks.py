"""The judge's random masks: which bits decide, and what zoneout and recurrent dropout do with what they decide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rnnkern import reference
from rnnkern.reference import Options

Array = np.ndarray[Any, Any]

EPS = float(np.finfo(np.float64).eps)
T, B, IN, H = 5, 3, 2, 4
SEED, CALL, STREAM, FIRST = (9 << 32) | 5, 4, 6, 11
RANDOM = (SEED, CALL, STREAM, FIRST)
CELLS = {
    "rnn_tanh": ("rnn_tanh", {}),
    "lstm": ("lstm", {"peephole": True}),
    "gru": ("gru", {}),
    "gru_before": ("gru", {"reset_after": False}),
}


def problem(case: str, **options: Any) -> tuple[str, dict[str, Array], list[Any], Options]:
    cell, own = CELLS[case]
    chosen, rng = Options(**own, **options), np.random.default_rng(0)
    shapes = reference.parameter_shapes(cell, chosen, IN, H)
    params = {name: 0.6 * rng.standard_normal(shape) for name, shape in shapes.items()}
    x, h_0, c_0 = (rng.standard_normal(shape) for shape in ((T, B, IN), (B, H), (B, H)))
    return cell, params, [x, h_0, c_0 if cell == "lstm" else None], chosen


def bits(word: int, t: int, row: int, unit: int, width: int) -> int:
    counter = np.array([CALL, STREAM, t, row * width + unit], np.uint32)
    return int(reference.philox4x32(counter, np.array([5, 9], np.uint32))[word])


def test_each_mask_has_its_own_word() -> None:
    """Zoneout of h holds by word 1, of c by word 2; recurrent dropout keeps by word 3 at t = 0, whatever the piece."""
    held_h = reference.zoneout_held((3, 2, 5), 0.25, "h", *RANDOM)
    held_c = reference.zoneout_held((3, 2, 5), 0.25, "c", *RANDOM)
    kept = reference.recurrent_kept((2, 5), 0.25, *RANDOM[:3])
    for t, row, unit in np.ndindex(held_h.shape):
        assert held_h[t, row, unit] == (bits(1, FIRST + t, row, unit, 5) < 2**30)
        assert held_c[t, row, unit] == (bits(2, FIRST + t, row, unit, 5) < 2**30)
        assert kept[row, unit] == (bits(3, 0, row, unit, 5) >= 2**30)
    whole = reference.dropout_kept((FIRST + 3, 2, 5), 0.25, *RANDOM[:3])
    assert np.array_equal(reference.dropout_kept((3, 2, 5), 0.25, *RANDOM), whole[FIRST:])
    for p in (0.0, 1.0):
        assert (reference.zoneout_held((3, 2, 5), p, "h", *RANDOM) == bool(p)).all()
        assert (reference.recurrent_kept((2, 5), p, *RANDOM[:3]) == (not p)).all()


@pytest.mark.parametrize("random", [None, RANDOM], ids=["mix", "train"])
@pytest.mark.parametrize("case", list(CELLS))
def test_zoneout_of_zero_and_of_one(case: str, random: tuple[int, int, int, int] | None) -> None:
    """0 changes nothing, to the bit. 1 hands the state through every step, and its gradient back."""
    cell, params, given, options = problem(case, zoneout=(0.0, 0.0))
    plain = reference.layer(cell, params, *given, options=options)
    none = reference.layer(cell, params, *given, options=options, random=random)
    assert all(np.array_equal(a, b) for a, b in zip(plain[:3], none[:3], strict=True) if a is not None)

    cell, params, given, options = problem(case, zoneout=(1.0, 1.0 if cell == "lstm" else 0.0))
    y, h_n, c_n, saved = reference.layer(cell, params, *given, options=options, random=random)
    assert (y == given[1]).all() and (h_n == given[1]).all() and (c_n is None or (c_n == given[2]).all())
    grads = reference.layer_backward(saved, np.ones_like(y), 2 * np.ones_like(h_n), 3 * np.ones((B, H)))
    assert (grads["h_0"] == T + 2).all() and (c_n is None or (grads["c_0"] == 3).all())
    assert not any(grads[name].any() for name in ("x", *params))


def test_h_is_of_the_cell_before_its_zoneout() -> None:
    """Krueger et al. 2016: holding all of c leaves the h of this step as it was."""
    cell, params, (x, h_0, c_0), options = problem("lstm", zoneout=(0.0, 1.0))
    for random in (None, RANDOM):
        y, _, c_n, _ = reference.layer(cell, params, x[:1], h_0, c_0, options=options, random=random)
        plain = reference.layer(cell, params, x[:1], h_0, c_0, options=Options(peephole=True))
        assert np.array_equal(y, plain[0]) and np.array_equal(c_n, c_0) and not np.array_equal(plain[2], c_0)


def test_inference_is_the_mean_of_training() -> None:
    """One step is linear in the masks: four standard errors of 4000 draws."""
    cell, params, (x, h_0, c_0), options = problem("lstm", zoneout=(0.3, 0.6))
    mixed = reference.layer(cell, params, x[:1], h_0, c_0, options=options)
    made = reference.layer(cell, params, x[:1], h_0, c_0, options=Options(peephole=True))
    draws = 4000
    for word, old, z in ((1, h_0, 0.3), (2, c_0, 0.6)):
        held = [reference.zoneout_held((1, B, H), z, "hc"[word - 1], SEED, n, STREAM)[0] for n in range(draws)]
        mean = np.where(held, old, made[word]).mean(0)
        spread = 4 * (z * (1 - z) / draws) ** 0.5
        assert (np.abs(mean - mixed[word]) <= spread * np.abs(old - made[word])).all()


@pytest.mark.parametrize("case", list(CELLS))
def test_training_holds_what_the_masks_say(case: str) -> None:
    """Step by step with the plain layer, in either direction: t is the step's place in the sequence."""
    z = (0.4, 0.3 if case == "lstm" else 0.0)
    cell, params, (x, h, c), options = problem(case, zoneout=z)
    plain = problem(case)[3]
    for reverse in (False, True):
        y, h_n, c_n, _ = reference.layer(cell, params, x, h, c, None, reverse, options=options, random=RANDOM)
        held_h = reference.zoneout_held((T, B, H), z[0], "h", *RANDOM)
        held_c = reference.zoneout_held((T, B, H), z[1], "c", *RANDOM)
        now_h, now_c = h, c
        for t in reversed(range(T)) if reverse else range(T):
            _, made_h, made_c, _ = reference.layer(cell, params, x[t : t + 1], now_h, now_c, options=plain)
            now_h = np.where(held_h[t], now_h, made_h)
            now_c = None if made_c is None else np.where(held_c[t], now_c, made_c)
            assert np.array_equal(y[t], now_h)
        assert np.array_equal(h_n, now_h) and (c_n is None or np.array_equal(c_n, now_c))


@pytest.mark.parametrize("case", list(CELLS))
def test_recurrent_dropout_is_a_network_with_thinner_columns(case: str) -> None:
    """For each row, R with the columns of what is dropped at zero and the others over 1 - p; a blend sees all of h'."""
    cell, params, (x, h_0, c_0), options = problem(case, recurrent_dropout=0.4)
    y, h_n, c_n, saved = reference.layer(cell, params, x, h_0, c_0, options=options, random=RANDOM)
    grads = reference.layer_backward(saved, y, h_n, c_n)
    kept = reference.recurrent_kept((B, H), 0.4, *RANDOM[:3])
    assert not kept.all() and kept.any(1).all()
    dR = np.zeros_like(params["weight_hh"])
    for b in range(B):
        row, factor = slice(b, b + 1), kept[b] / 0.6
        own = params | {"weight_hh": params["weight_hh"] * factor}
        c = None if c_0 is None else c_0[row]
        one = reference.layer(cell, own, x[:, row], h_0[row], c, options=problem(case)[3])
        share = reference.layer_backward(one[3], *one[:3])
        dR += share["weight_hh"] * factor
        for got, wanted in ((y[:, row], one[0]), (h_n[row], one[1]), (grads["h_0"][row], share["h_0"])):
            assert np.abs(got - wanted).max() <= 64 * EPS * np.abs(wanted).max()
    assert np.abs(grads["weight_hh"] - dR).max() <= 64 * EPS * np.abs(dR).max()
    off = reference.layer(cell, params, x, h_0, c_0, options=options)[0]
    assert np.array_equal(off, reference.layer(cell, params, x, h_0, c_0, options=problem(case)[3])[0])


def test_pieces_draw_the_masks_of_the_whole() -> None:
    """A sequence in two pieces with one call: the second begins at its first step."""
    cell, params, (x, h_0, c_0), options = problem("lstm", zoneout=(0.3, 0.4), recurrent_dropout=0.3)
    named = {f"{name}_l{k}": params[name] for k in range(2) for name in params}
    named["weight_ih_l1"] = params["weight_hh"]
    states, keywords = [np.stack([s, -s]) for s in (h_0, c_0)], {"num_layers": 2, "options": options, "dropout": 0.3}
    whole = reference.stack(cell, named, x, *states, **keywords, seed=SEED, call=CALL)
    one = reference.stack(cell, named, x[:2], *states, **keywords, seed=SEED, call=CALL)
    two = reference.stack(cell, named, x[2:], *one[1:3], **keywords, seed=SEED, call=CALL, first_step=2)
    got = (np.concatenate([one[0], two[0]]), two[1], two[2])
    for value, wanted in zip(got, whole[:3], strict=True):
        assert np.abs(value - wanted).max() <= 64 * EPS * np.abs(wanted).max()


def test_streams_and_train() -> None:
    """Stream k*D + d for each layer and direction; train=False draws nothing."""
    cell, params, (x, _, _), options = problem("gru", zoneout=(0.3, 0.0), recurrent_dropout=0.3)
    named = {name + reference.suffix(k, d): value for k in (0, 1) for d in (0, 1) for name, value in params.items()}
    named |= {f"weight_ih{reference.suffix(1, d)}": np.ones((3 * H, 2 * H)) for d in (0, 1)}
    keywords: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "options": options, "dropout": 0.4}
    tapes = reference.stack(cell, named, x, **keywords, seed=SEED, call=CALL, first_step=FIRST)[3].tapes
    for k, d in np.ndindex(2, 2):
        drawn, random = tapes[k][d].drawn, (SEED, CALL, 2 * k + d, FIRST)
        assert np.array_equal(drawn.held_h, reference.zoneout_held((T, B, H), 0.3, "h", *random))
        assert np.array_equal(drawn.kept, reference.recurrent_kept((B, H), 0.3, *random[:3])) and drawn.held_c is None
    saved = reference.stack(cell, named, x, **keywords, train=False)[3]
    assert saved.kept == [None, None]
    assert all(tape.drawn == reference.Drawn() for tapes in saved.tapes for tape in tapes)


@pytest.mark.parametrize(
    ("cell", "options", "said"),
    [
        ("gru", {"peephole": True}, "'gru' has no \\['peephole'\\]"),
        ("rnn_tanh", {"coupled": True, "peephole": True}, "'rnn_tanh' has no \\['coupled', 'peephole'\\]"),
        ("lstm", {"reset_after": False}, "'lstm' has no \\['reset_after'\\]"),
        ("lstm", {"independent": True}, "independent: expected an RNN"),
        ("gru", {"layer_norm": True, "reset_after": False}, "layer_norm: not defined beside"),
        ("lstm", {"layer_norm": True, "heads": 2}, "layer_norm: not defined beside"),
        ("gru", {"zoneout": (0.1, 0.1)}, "'gru' has no c"),
        ("gru", {"recurrent_dropout": 1.5}, "recurrent_dropout: expected"),
        ("lstm", {"heads": 3}, "heads: expected a divisor of 4"),
        ("lstm", {"activations": (("tanh", 0.0, 0.0),)}, "activations: expected 3 for 'lstm', got 1"),
    ],
)
def test_what_is_not_defined_is_refused(cell: str, options: dict[str, Any], said: str) -> None:
    units = reference.CELLS[cell].gates * H
    params = {"weight_ih": np.zeros((units, IN)), "weight_hh": np.zeros((units, H))}
    with pytest.raises(ValueError, match=said):
        reference.layer(cell, params, np.zeros((T, B, IN)), options=Options(**options))


def test_parameters_are_those_of_the_options() -> None:
    """And marks are bool [T, B]."""
    cell, params, given, options = problem("lstm")
    for more in ("gamma_ih", "weight_hr", "bias"):
        with pytest.raises(
            ValueError, match="params: expected" if more != "weight_hr" else "weight_hh: expected shape"
        ):
            reference.layer(cell, params | {more: np.zeros((2, H))}, *given, options=options)
    with pytest.raises(ValueError, match="params: expected"):
        reference.layer(cell, {n: v for n, v in params.items() if n != "peephole"}, *given, options=options)
    with pytest.raises(ValueError, match=r"peephole: expected shape \(3, 4\), got \(4, 3\)"):
        reference.layer(cell, params | {"peephole": np.zeros((H, 3))}, *given, options=options)
    for name in ("mask", "reset"):
        for marks in (np.ones((B, T), bool), np.ones((T, B))):
            with pytest.raises(ValueError, match=rf"{name}: expected bool \(5, 3\), got"):
                reference.layer(cell, params, *given, options=options, **{name: marks})
