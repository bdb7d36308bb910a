"""rnnkern.structure: every piece against rnnkern.reference composed in NumPy, and against finite differences."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rnnkern as rk
from numeric import EPS, differences, near
from rnnkern import train
from rnnkern.structure import InitialState, Merge, Pyramid, PyramidalLSTM, Stack, truncated
from structure_cases import IN, LENGTHS, STRUCTURES, B, D, T, alive, flat, judge, like, problem, randomised

Array = np.ndarray[Any, Any]
# Against the reference, in float64: exp and tanh to a few eps a step, and products of up to 16 terms over 7 steps.
BOUND = 256 * EPS["float64"]
# Central differences err by eps^(2/3) times the third derivative, here up to hundreds, and the size of the loss.
SLOPES = 1000 * EPS["float64"] ** (2 / 3)


def near_all(got: Any, wanted: Any) -> None:
    for a, b in zip(flat(got), flat(wanted), strict=True):
        near(a, b, BOUND)


@pytest.mark.parametrize("given", [False, True], ids=["zeros", "state"])
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("name", STRUCTURES)
def test_values_and_gradients_are_the_references(name: str, lengths: Array | None, given: bool) -> None:
    m = randomised(STRUCTURES[name]())
    x, state, dy, dstate = problem(m)
    state = state if given else None
    y, finals, tape = m.forward(x, state, lengths=lengths)
    grads = m.backward(tape, dy, dstate)
    wanted_y, wanted_finals, back = judge(m, x, state, lengths)
    near(y, wanted_y, BOUND)
    near_all(finals, wanted_finals)
    dx, starts, params = back(
        np.where(alive(len(y), m.output_lengths(lengths)), dy, 0) if lengths is not None else dy, dstate
    )
    near(grads.x, dx, BOUND)
    near_all(grads.state, starts)
    assert list(grads.params) == list(m.params) and grads.params.keys() == params.keys()
    for key, value in params.items():
        near(grads.params[key], value, BOUND)
        assert grads.params[key].dtype == m.params[key].dtype and grads.params[key].shape == m.params[key].shape
    if name != "dropped all" and (not given or "initial" not in name):
        assert all(
            np.abs(value).max() > 0 for key, value in params.items() if not given or not re.search(r"[hc]_0_", key)
        )


@pytest.mark.parametrize("name", ["residual", "mul", "mean", "pyramidal", "initial", "nested"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    m = randomised(STRUCTURES[name](), seed=4)
    x, state, dy, dstate = problem(m)
    learned = name in ("initial", "nested")
    state = None if learned else state

    def loss(x: Array, state: Any) -> float:
        for part in m.layers if isinstance(m, Stack) else ():
            if isinstance(part, Stack):
                part.call = 0  # the same masks every time
        y, finals, _ = m.forward(x, state, lengths=LENGTHS)
        return float((y * dy).sum() + sum((a * b).sum() for a, b in zip(flat(finals), flat(dstate), strict=True)))

    grads = m.backward(m.forward(x, state, lengths=LENGTHS)[2], dy, dstate)
    near(grads.x, differences(lambda v: loss(v, state), x), SLOPES)
    for place, part in enumerate([] if learned else flat(state)):

        def moved(value: Array, place: int = place) -> float:
            return loss(x, like(state, iter([value if i == place else s for i, s in enumerate(flat(state))])))

        near(list(flat(grads.state))[place], differences(moved, part), SLOPES)
    for key, value in dict(m.params).items():
        # A few entries of each: the reference has them all.
        places = [np.unravel_index(i, value.shape) for i in np.linspace(0, value.size - 1, 3).astype(int)]

        def changed(entries: Array, key: str = key, value: Array = value, places: Any = places) -> float:
            other = value.copy()
            for place, entry in zip(places, entries, strict=True):
                other[place] = entry
            m.update({key: other})
            return loss(x, state)

        slopes = differences(changed, np.array([value[place] for place in places]))
        m.update({key: value})
        got = np.array([grads.params[key][place] for place in places])
        assert np.abs(got - slopes).max() <= SLOPES * max(1.0, np.abs(slopes).max()), key


# --- the promises of a layer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STRUCTURES)
def test_padding_never_matters_and_is_zero(name: str) -> None:
    m = randomised(STRUCTURES[name]())
    x, state, dy, dstate = problem(m)
    y, finals, tape = m.forward(x, state, lengths=LENGTHS, train=False)
    grads = m.backward(tape, dy, dstate)
    past, past_y = ~alive(T, LENGTHS)[..., 0], ~alive(len(y), m.output_lengths(LENGTHS))[..., 0]
    assert not y[past_y].any() and not grads.x[past].any()
    x, dy = x.copy(), dy.copy()
    x[past], dy[past_y] = np.nan, np.nan
    again, again_finals, tape = m.forward(x, state, lengths=LENGTHS.tolist(), train=False)
    other = m.backward(tape, dy, dstate)
    for a, b in [
        (y, again),
        (grads.x, other.x),
        *zip(flat((finals, grads.state)), flat((again_finals, other.state)), strict=True),
    ]:
        assert a.tobytes() == b.tobytes()
    assert all(value.tobytes() == other.params[key].tobytes() for key, value in grads.params.items())


@pytest.mark.parametrize("name", STRUCTURES)
def test_calls_have_the_bits_of_forward_and_tapes_can_be_used_again(name: str) -> None:
    m = randomised(STRUCTURES[name]())
    x, state, dy, dstate = problem(m)
    kept = x.copy()
    y, finals, tape = m.forward(x, state, train=False)
    called, called_finals = m(x, state)
    assert called.tobytes() == y.tobytes()
    assert [a.tobytes() for a in flat(finals)] == [a.tobytes() for a in flat(called_finals)]
    assert y.shape == (m.output_lengths(T), B, m.output_size) and y.dtype == m.dtype
    first, second = m.backward(tape, dy, dstate), m.backward(tape, dy, dstate)
    assert first.x.tobytes() == second.x.tobytes() and np.array_equal(x, kept)
    assert all(value.tobytes() == second.params[key].tobytes() for key, value in first.params.items())
    without = m.backward(tape, dy, dstate, need_x=False)
    assert without.x is None
    assert all(value.tobytes() == without.params[key].tobytes() for key, value in first.params.items())
    nothing = m.backward(tape, None)
    assert not any(part.any() for part in flat((nothing.x, nothing.state, *nothing.params.values())))
    assert [a.shape for a in flat(first.state)] == [a.shape for a in flat(state)]


@pytest.mark.parametrize("name", ["one residual", "mul", "pyramidal", "initial", "nested"])
def test_parameters_change_by_update_all_or_none(name: str) -> None:
    m = STRUCTURES[name]()
    x, state, dy, _ = problem(m)
    *_, tape = m.forward(x, state)
    before = m.state_dict()
    assert list(before) == list(m.params) and all(not value.flags.writeable for value in m.params.values())
    first, *_, last = before
    for values, error, message in [
        ({first: before[first] + 1, last: before[last][:-1]}, ValueError, rf"params\['{last}'\]: expected shape"),
        (
            {first: before[first] + 1, last: before[last].astype(np.float32)},
            TypeError,
            rf"params\['{last}'\]: .* float64",
        ),
        (
            {first: before[first] + 1, "gain": before[last]},
            ValueError,
            "params: expected names of .* unexpected 'gain'",
        ),
        ([first], TypeError, "params: expected a mapping of names to arrays, got list"),
    ]:
        with pytest.raises(error, match=message):
            m.update(values)
    with pytest.raises(ValueError, match=f"state_dict: .* missing {first}"):
        m.load_state_dict({key: value for key, value in before.items() if key != first})
    assert all(np.array_equal(value, before[key]) for key, value in m.params.items())
    m.backward(tape, dy)  # nothing had changed
    mine = before[last] + 1
    m.update({last: mine})
    mine[...] = 0
    assert np.array_equal(m.params[last], before[last] + 1)
    with pytest.raises(ValueError, match="tape: the parameters were updated since its forward"):
        m.backward(tape, dy)
    m.load_state_dict(before)
    assert all(np.array_equal(value, before[key]) for key, value in m.params.items())


@pytest.mark.parametrize("name", ["mul", "nested"])
def test_copies_pickles_and_files(name: str, tmp_path: Path) -> None:
    m = randomised(STRUCTURES[name]())
    x, *_ = problem(m)
    rk.save(tmp_path / "m.safetensors", m.state_dict())
    loaded = STRUCTURES[name]()
    loaded.load_state_dict(rk.load(tmp_path / "m.safetensors"))
    for other in (copy.deepcopy(m), pickle.loads(pickle.dumps(m)), loaded):
        assert other(x)[0].tobytes() == m(x)[0].tobytes() and repr(other) == repr(m)
        assert all(not value.flags.writeable for value in other.params.values())
        other.update({key: value + 1 for key, value in other.params.items()})
        assert other(x)[0].tobytes() != m(x)[0].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_other_dtypes(dtype: str) -> None:
    """Against float64 with the same parameters. Half types: h rounded at each step; growth by 7 steps and 4 layers."""
    options: dict[str, Any] = {"bidirectional": True}

    def build(dtype: str) -> Stack:
        layers = [InitialState(Merge(rk.LSTM(IN, 4, dtype=dtype, seed=1, **options), "mean"))]
        layers += [Pyramid(rk.GRU(8, 4, dtype=dtype, seed=2)), rk.RNN(4, 4, dtype=dtype, seed=3)]
        return Stack(*layers, residual=[False, False, True], dropout=0.3, seed=1)

    m, wide = randomised(build(dtype)), build("float64")
    wide.update({key: value.astype(np.float64) for key, value in m.params.items()})
    x, _, dy, _ = problem(m)
    y, _, tape = m.forward(x, lengths=LENGTHS)
    grads = m.backward(tape, dy)
    want, _, wide_tape = wide.forward(x.astype(np.float64), lengths=LENGTHS)
    wanted = wide.backward(wide_tape, dy.astype(np.float64))
    eps = {"bfloat16": 2.0**-7, "float16": 2.0**-10}.get(dtype, EPS["float32"])
    near(y, want, 8 * eps)
    near(grads.x, wanted.x, 16 * eps)
    for key, value in wanted.params.items():
        assert grads.params[key].dtype == m.dtype
        near(grads.params[key], value, 16 * eps)


def test_masks_follow_seed_and_call() -> None:
    m = STRUCTURES["dropout"]()
    x, *_ = problem(m)
    first = m.forward(x)[0]
    assert m.call == 1 and not np.array_equal(m.forward(x)[0], first)
    m.call = 0
    assert np.array_equal(m.forward(x)[0], first)
    assert not np.array_equal(m(x)[0], first) and m.call == 1, "inference draws nothing"
    assert np.array_equal(m(x)[0], m.forward(x, train=False)[0]) and m.call == 1


def test_output_lengths() -> None:
    m = PyramidalLSTM(IN, 2, 2)
    assert m.output_lengths(LENGTHS).tolist() == [2, 0, 2, 1] and m.output_lengths(9) == 3 and m.halvings == 2
    assert Stack(rk.LSTM(IN, 2, bidirectional=True), PyramidalLSTM(4, 2, 3)).output_lengths(8) == 1
    for steps, rows, shape in ((0, 2, (0, 2, 4)), (5, 0, (2, 0, 4)), (0, 0, (0, 0, 4))):
        y, _, tape = m.forward(np.zeros((steps, rows, IN), np.float32))
        grads = m.backward(tape, y)
        assert y.shape == shape and grads.x.shape == (steps, rows, IN) and not grads.params["0.weight_ih_l0"].any()
    assert m(np.ones((1, 2, IN), np.float32))[0].shape == (1, 2, 4)


def test_a_trained_stack_learns() -> None:
    """The whole of it with rnnkern.train: which of two classes a sequence's first step named, through a pyramid."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((8, 32, IN)).astype(np.float32)
    classes = (x[0, :, 0] > 0).astype(int)
    m = Stack(InitialState(Merge(rk.GRU(IN, 8, bidirectional=True, seed=1), "sum")), PyramidalLSTM(8, 4, 2, seed=2))
    out = train.Linear(8, 2, seed=3)
    opt = train.Adam({"m": m, "out": out}, lr=0.02)
    losses = []
    for _ in range(60):
        y, _, tape = m.forward(x)
        logits, tape_out = out.forward(y[0])
        loss, dlogits = train.softmax_cross_entropy(logits, classes)
        g_out = out.backward(tape_out, dlogits)
        dy = np.zeros_like(y)
        dy[0] = g_out.x
        opt.step({"m": m.backward(tape, dy, need_x=False).params, "out": g_out.params})
        losses.append(loss)
    assert losses[0] > 0.5 and losses[-1] < 0.1 and np.abs(m.params["0.h_0_l0"]).max() > 0


# --- truncated BPTT ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 20])
def test_truncated_is_full_bptt_of_each_piece_alone(chunk: int, lengths: Array | None) -> None:
    m = randomised(Stack(InitialState(rk.LSTM(IN, 4, **D)), rk.GRU(4, 4, **D), residual=[False, True]))
    x, _, dy, _ = problem(m)
    whole, last = m(x, lengths=lengths)
    seen, state = [], None
    losses: list[float] = []

    def loss(y: Array, steps: slice) -> tuple[float, Array]:
        seen.append((y, steps))
        return float((y * dy[steps]).sum()), dy[steps]

    for piece in truncated(m, x, loss, chunk, lengths=lengths, need_x=True):
        own = None if lengths is None else np.clip(lengths - piece.steps.start, 0, piece.steps.stop - piece.steps.start)
        y, finals, back = judge(m, x[piece.steps], state, own)
        within = alive(len(y), own)
        dx, starts, params = back(
            np.where(within, dy[piece.steps], 0), ((np.zeros((1, B, 4)),) * 2, np.zeros((1, B, 4)))
        )
        near(piece.grads.x, dx, BOUND)
        near_all(piece.grads.state, starts)
        for key, value in params.items():
            near(piece.grads.params[key], value, BOUND)
        near_all(piece.state, finals)
        state = finals
        losses.append(piece.loss)
    assert np.concatenate([y for y, _ in seen]).tobytes() == whole.tobytes()
    assert [a.tobytes() for a in flat(piece.state)] == [a.tobytes() for a in flat(last)]
    assert [s.start for _, s in seen] == list(range(0, T, chunk)) and len(losses) == len(seen)
    assert abs(sum(losses) - (whole * dy).sum()) <= BOUND * np.abs(whole * dy).sum()
    if chunk >= T:
        _, _, tape = m.forward(x, lengths=lengths)
        full = m.backward(tape, dy)
        assert all(value.tobytes() == full.params[key].tobytes() for key, value in piece.grads.params.items())


def test_parameters_may_be_updated_between_pieces_of_a_pyramid() -> None:
    m = PyramidalLSTM(IN, 4, 1, bidirectional=False, seed=0)
    opt = train.SGD(m, lr=0.05)
    x = np.random.default_rng(0).standard_normal((9, 2, IN)).astype(np.float32)
    shapes, losses = [], []
    for _ in range(20):
        for piece in truncated(m, x, lambda y, s: (float((y * y).sum()), 2 * y), 4, lengths=[9, 3]):
            opt.step(piece.grads.params)
            shapes.append(piece.state[0][0].shape)
            losses.append(piece.loss)
            assert piece.grads.x is None
    assert len(losses) == 60 and set(shapes) == {(1, 2, 4)} and losses[57] < losses[0] / 2


# --- errors -----------------------------------------------------------------------------------------------------------


def lstm(*sizes: int, **options: Any) -> rk.LSTM:
    return rk.LSTM(*sizes, **options)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Stack(), ValueError, "layers: expected at least one, got none"),
        (lambda: Stack(lstm(3, 4), np.tanh), TypeError, r"layers\[1\]: expected an RNN, .* or sLSTM .* got ufunc"),
        (lambda: Stack(lstm(3, 4, batch_first=True)), ValueError, r"layers\[0\]: expected batch_first=False"),
        (lambda: Stack(lstm(3, 4, bidirectional=True), lstm(4, 4)), ValueError,
         r"layers\[1\]: expected input size 8, the output size of layers\[0\], got 4"),
        (lambda: Stack(lstm(3, 4), lstm(4, 4, dtype="float64")), TypeError, r"layers\[1\]: expected dtype float32"),
        (lambda: Stack(lstm(4, 4), lstm(4, 5), residual=True), ValueError,
         r"residual: expected layers\[1\] .* got input size 4 and output size 5"),
        (lambda: Stack(lstm(4, 4), residual=[True, True]), ValueError, "residual: expected 1 flags.* got 2"),
        (lambda: Stack(lstm(4, 4), residual="all"), TypeError, "residual: expected a bool or one a layer, got 'all'"),
        (lambda: Stack(Pyramid(lstm(8, 4)), residual=True), ValueError, "residual: .* as many steps as it takes"),
        (lambda: Stack(lstm(4, 4), dropout=1.5), ValueError, r"dropout: expected a probability in \[0, 1\], got 1.5"),
        (lambda: Stack(lstm(4, 4), seed=-1), ValueError, "seed: expected 0 to"),
        (lambda: Merge(lstm(4, 4)), ValueError, "layer: expected bidirectional=True and num_layers=1"),
        (lambda: Merge(lstm(4, 4, 2, bidirectional=True)), ValueError, "layer: expected bidirectional=True and num_la"),
        (lambda: Merge(Merge(lstm(4, 4, bidirectional=True), "sum")), ValueError, "layer: expected bidirectional=True"),
        (lambda: Merge(Stack(lstm(4, 4, bidirectional=True))), ValueError, "layer: expected bidirectional=True"),
        (lambda: Merge(lstm(4, 4, bidirectional=True), "ave"), ValueError, "mode: expected one of concat.*, got 'ave'"),
        (lambda: Pyramid(lstm(3, 4)), ValueError, "layer: expected an even input size .* got 3"),
        (lambda: InitialState(Stack(lstm(3, 4))), TypeError, "layer: expected an RNN, .* or sLSTM, or one inside"),
        (lambda: InitialState(Merge(InitialState(lstm(3, 4, bidirectional=True)))), TypeError, "layer: expected"),
        (lambda: PyramidalLSTM(3, 4, 0), ValueError, "num_layers: expected at least 1, got 0"),
        (lambda: PyramidalLSTM(3, 4, 2, batch_first=True), ValueError, "batch_first=False"),
        (lambda: PyramidalLSTM(3, 4, 2, bidirectional="yes"), TypeError, "bidirectional: expected a bool, got str"),
    ],
    ids=range(22),
)  # fmt: skip
def test_what_does_not_fit_together_is_named(build: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        build()


def test_wrong_arguments_of_calls_are_named_before_any_work() -> None:
    m = Stack(lstm(3, 4), Merge(rk.GRU(4, 5, bidirectional=True), "sum"))
    x = np.zeros((6, 2, 3), np.float32)
    h, c, g = (np.zeros((n, 2, size), np.float32) for n, size in ((1, 4), (1, 4), (2, 5)))
    for arguments, options, error, message in [
        ((x[0],), {}, ValueError, r"x: expected \[T, B, I\], got 2 axes, \[2, 3\]"),
        ((x[..., :2],), {}, ValueError, r"x: expected shape \[T, B, I\] = \[6, 2, 3\], got \[6, 2, 2\]"),
        ((x.astype(float),), {}, TypeError, "x: expected dtype float32, got float64"),
        ((x.tolist(),), {}, TypeError, "x: expected a NumPy array, got list"),
        ((x,), {"lengths": [7, 0]}, ValueError, r"lengths\[0\]: expected 0 <= length <= T = 6, got 7"),
        ((x, h), {}, TypeError, "state: expected a tuple of 2 states, got ndarray"),
        ((x, (h,)), {}, ValueError, "state: expected 2 states, one a layer, got 1"),
        ((x, ((h, c), g[:1])), {}, ValueError, r"state\[1\]: .* \[L\*D, B, H\] = \[2, 2, 5\], got \[1, 2, 5\]"),
        ((x, (h, g)), {}, TypeError, r"state\[0\]: expected a tuple of two arrays"),
        ((x, ((h, c.astype(float)), g)), {}, TypeError, r"state\[0\]\[1\] \(c\): expected dtype float32, got float64"),
    ]:  # fmt: skip
        for call in (m, m.forward):
            with pytest.raises(error, match=message):
                call(*arguments, **options)
    with pytest.raises(TypeError, match="train: expected a bool"):
        m.forward(x, train=1)
    y, _, tape = m.forward(x)
    assert repr(tape) == f"<tape of {m!r}, x [6, 2, 3]>"
    for arguments, error, message in [
        ((tape, y[1:]), ValueError, r"dy: expected shape \[T', B, output_size\] = \[6, 2, 5\], got \[5, 2, 5\]"),
        ((tape, y.tolist()), TypeError, "dy: expected a NumPy array, got list"),
        ((tape, y, (None, h)), ValueError, r"dstate\[1\]: expected shape"),
        ((None, y), TypeError, "tape: expected the tape that forward returned, got NoneType"),
        ((copy.deepcopy(m).forward(x)[2], y), ValueError, "tape: expected a tape of this Stack.* got one of another"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            m.backward(*arguments)
    x[0] = 1
    with pytest.raises(ValueError, match="tape: x was changed since its forward"):
        m.backward(tape, y)


def test_truncated_names_what_it_cannot_do() -> None:
    x = np.zeros((6, 2, 4), np.float32)

    def never(y: Array, steps: slice) -> Any:
        raise AssertionError("checked at the call")

    for layer, chunk, options, error, message in [
        (
            Stack(lstm(4, 4), Merge(lstm(4, 4, bidirectional=True))),
            2,
            {},
            ValueError,
            "layer: expected one that looks back",
        ),
        (np.tanh, 2, {}, TypeError, "layer: expected an RNN, GRU, LSTM or sLSTM"),
        (PyramidalLSTM(4, 4, 2, bidirectional=False), 6, {}, ValueError, r"chunk: expected a multiple of 4 .* got 6"),
        (lstm(4, 4), 0, {}, ValueError, "chunk: expected at least 1, got 0"),
        (lstm(4, 4), 2, {"lengths": [9, 1]}, ValueError, r"lengths\[0\]"),
    ]:
        with pytest.raises(error, match=message):
            truncated(layer, x, never, chunk, **options)
    with pytest.raises(ValueError, match=r"x: expected \[T, B, I\], got 2 axes, \[2, 4\]"):
        truncated(lstm(4, 4), x[0], never, 2)


# --- docs/structure.md ------------------------------------------------------------------------------------------------

DOCS = (Path(__file__).resolve().parents[2] / "docs" / "structure.md").read_text(encoding="utf-8")


def test_recipes_of_the_document_run() -> None:
    """In order, in one namespace; their own asserts are the test."""
    blocks = re.findall(r"^```python\n(.*?)^```", DOCS, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/structure.md", "exec"), names)
    assert len(blocks) >= 6 and sum(block.count("assert ") for block in blocks) >= 6
