"""Layers and cells with options: stacks and directions against the judge, and what masks and resets mean.

Bound of the comparisons: float64, sums of some 60 terms over up to 7 steps and two layers: 1e-12 of a tensor's largest
magnitude is 4500 eps, a hundred times their independent roundings; a formula that is wrong shows at 1e-3 and more.
"""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

import rnnkern as rk
from rnnkern import reference

Array = np.ndarray[Any, Any]
T, B, IN, H = 7, 4, 3, 6
BOUND = 1e-12

OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("LSTM", {}),
    "peephole coupled clip": ("LSTM", {"peephole": True, "coupled": True, "clip": 0.8}),
    "proj_size": ("LSTM", {"proj_size": 2, "recurrent_dropout": 0.3}),
    "layer_norm": ("LSTM", {"layer_norm": True, "proj_size": 3, "zoneout": (0.2, 0.3)}),
    "lstm heads": ("LSTM", {"heads": 3, "activations": ("Sigmoid", "Softsign", ("Elu", 0.7))}),
    "gru": ("GRU", {"zoneout": 0.3}),
    "reset before": ("GRU", {"reset_after": False, "recurrent_dropout": 0.4, "heads": 2}),
    "gru layer_norm": ("GRU", {"layer_norm": True}),
    "rnn": ("RNN", {"activations": ("Softplus",), "layer_norm": True}),
    "independent": ("RNN", {"independent": True, "recurrent_dropout": 0.4}),
}


def layer_of(kind: str, options: dict[str, Any], **more: Any) -> Any:
    """Float64, with factors and shifts of norms that are not 1 and 0."""
    layer = getattr(rk, kind)(IN, H, dtype="float64", seed=1, **options, **more)
    rng = np.random.default_rng(2)
    moved = {
        name: value + 0.3 * rng.standard_normal(value.shape) * name.startswith(("gamma", "beta"))
        for name, value in layer.state_dict().items()
    }
    layer.load_state_dict(moved)
    return layer


def state_of(layer: Any, rng: Any) -> Any:
    leading = layer.num_layers * (2 if layer.bidirectional else 1)
    h = rng.standard_normal((leading, B, layer.proj_size or H))
    return (h, rng.standard_normal((leading, B, H))) if layer.spec.states == 2 else h


def parts(state: Any) -> list[Any]:
    return list(state) if isinstance(state, tuple) else [state]


def near(got: Array, wanted: Array, name: str) -> None:
    gap, scale = np.abs(got - wanted).max(initial=0), np.abs(wanted).max(initial=0)
    assert gap <= BOUND * max(float(scale), 1e-300), f"{name}: off by {gap / scale:.2g} of its largest magnitude"


@pytest.mark.parametrize("train", [False, True], ids=["fixed", "random"])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_deep_bidirectional_stack(name: str, train: bool) -> None:
    """Two layers, both directions, dropout, lengths, masks with holes, resets, batch_first: outputs, all gradients."""
    kind, options = OPTIONS[name]
    layer = layer_of(kind, options, num_layers=2, bidirectional=True, dropout=0.25, batch_first=True)
    rng = np.random.default_rng(3)
    x, state = rng.standard_normal((B, T, IN)), state_of(layer, rng)
    lengths, mask, reset = np.array([T, 3, 0, 5]), rng.random((B, T)) < 0.7, rng.random((B, T)) < 0.3
    x[~mask] = np.nan
    y, final, tape = layer.forward(x, state, lengths=lengths, mask=mask, reset=reset, train=train)
    dy, dstate = rng.standard_normal(y.shape), tuple(rng.standard_normal(s.shape) for s in parts(final))
    grads = layer.backward(tape, dy, dstate if len(dstate) == 2 else dstate[0])

    spec = layer.spec
    own = {name: getattr(spec.options, name) for name in reference.Options.__dataclass_fields__}
    own |= {"clip": spec.options.clip or None, "activations": spec.options.activations or None}
    h, *c = parts(state)
    got_y, got_h, got_c, saved = reference.stack(
        spec.cell, dict(layer.params), x.swapaxes(0, 1), h, c[0] if c else None, lengths, num_layers=2,
        bidirectional=True, dropout=0.25, seed=layer.seed, call=0, options=reference.Options(**own), mask=mask.T,
        reset=reset.T, train=train,
    )  # fmt: skip
    wanted = reference.stack_backward(saved, dy.swapaxes(0, 1), *dstate)
    near(y, got_y.swapaxes(0, 1), "y")
    near(grads.x, wanted["x"].swapaxes(0, 1), "dx")
    for letter, value, judged, grad in zip("hc", parts(final), (got_h, got_c), parts(grads.state), strict=False):
        assert judged is not None
        near(value, judged, f"{letter}_n")
        near(grad, wanted[f"{letter}_0"], f"d{letter}_0")
    for parameter, grad in grads.params.items():
        near(grad, wanted[parameter], parameter)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_mask_is_the_sequence_without_those_steps(name: str) -> None:
    layer = layer_of(*OPTIONS[name])
    x = np.random.default_rng(4).standard_normal((T, B, IN))
    kept = np.array([0, 2, 3, 6])
    mask = np.zeros((T, B), bool)
    mask[kept] = True
    y, final = layer(x, mask=mask)
    short, wanted = layer(np.ascontiguousarray(x[kept]))
    assert np.array_equal(y[kept], short) and not y[[1, 4, 5]].any()
    assert all(np.array_equal(a, b) for a, b in zip(parts(final), parts(wanted), strict=True))


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_reset_is_the_sequence_in_pieces(name: str, reverse: bool) -> None:
    """A mark at step 3: the pieces [0, 3) and [3, T) know nothing of each other, in either direction."""
    layer = layer_of(*OPTIONS[name], reverse=reverse)
    x = np.random.default_rng(5).standard_normal((T, B, IN))
    reset = np.zeros((T, B), bool)
    reset[3] = True
    y, _ = layer(x, reset=reset)
    pieces = [layer(np.ascontiguousarray(piece))[0] for piece in (x[:3], x[3:])]
    assert np.array_equal(y, np.concatenate(pieces))


@pytest.mark.parametrize("name", OPTIONS)
def test_random_masks_repeat_with_the_call(name: str) -> None:
    """The same call number gives the same bits, also with recomputation and on one thread; another call others."""
    kind, options = OPTIONS[name]
    x = np.random.default_rng(6).standard_normal((60, B, IN))

    def step(layer: Any, call: int) -> list[Array]:
        layer.call = call
        y, _, tape = layer.forward(x)
        grads = layer.backward(tape, np.ones_like(y))
        return [y, grads.x, *grads.params.values()]

    layer = layer_of(kind, options, num_layers=2)
    first = step(layer, 3)
    threads = rk.get_num_threads()
    try:
        rk.set_num_threads(1)
        again = step(layer_of(kind, options, num_layers=2, recompute=True), 3)
    finally:
        rk.set_num_threads(threads)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert np.array_equal(first[0], step(layer, 4)[0]) == (not layer.spec.options.random)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_cell_is_a_layer_of_one_step(name: str) -> None:
    kind, options = OPTIONS[name]
    options = {key: value for key, value in options.items() if key != "recurrent_dropout"}
    layer = layer_of(kind, options)
    cell = getattr(rk, f"{kind}Cell")(IN, H, dtype="float64", **options)
    cell.load_state_dict({key.removesuffix("_l0"): value for key, value in layer.params.items()})
    rng = np.random.default_rng(7)
    x, state = rng.standard_normal((B, IN)), state_of(layer, rng)
    _, wanted = layer(x[None], state)
    mine = tuple(s[0].copy() for s in parts(state)) if len(parts(state)) == 2 else state[0].copy()
    got = cell(x, mine)
    assert all(np.array_equal(a, b[0]) for a, b in zip(parts(got), parts(wanted), strict=True))
    assert all(np.array_equal(a, b[0]) for a, b in zip(parts(cell.step_(x, mine)), parts(wanted), strict=True))
    _, tape = cell.forward(x, got, train=False)
    assert cell.backward(tape, got).params.keys() == cell.params.keys()


@pytest.mark.parametrize("name", OPTIONS)
def test_properties_and_pickles(name: str) -> None:
    """The keywords come back as properties, in repr, and from a pickle."""
    kind, options = OPTIONS[name]
    layer = layer_of(kind, options)
    for key, value in options.items():
        got = getattr(layer, key)
        if key == "activations":
            got = tuple(each[0] if len(each) == 1 else each for each in got)
        assert got == value
        assert key in repr(layer)
    copy = pickle.loads(pickle.dumps(layer))
    x = np.ones((2, 1, IN))
    assert repr(copy) == repr(layer) and np.array_equal(copy(x)[0], layer(x)[0])


def test_the_probe_is_the_gradient_of_every_h() -> None:
    """Two layers: dE/dh_t by differences, through an h that a step is restarted from."""
    layer = layer_of("GRU", {})
    x = np.random.default_rng(8).standard_normal((T, B, IN))
    y, _, tape = layer.forward(x)
    dy = np.random.default_rng(9).standard_normal(y.shape)
    (steps,) = layer.backward(tape, dy, probe=True).steps
    for t in range(T - 1):
        _, _, rest = layer.forward(x[t + 1 :], y[t][None])
        near(steps[t], dy[t] + layer.backward(rest, dy[t + 1 :]).state[0], f"step {t}")
    near(steps[-1], dy[-1], "the last step")


def test_the_step_clip_bounds_every_step() -> None:
    layer = layer_of("LSTM", {})
    x = np.random.default_rng(10).standard_normal((T, B, IN))
    y, _, tape = layer.forward(x)
    free = layer.backward(tape, 10 * np.ones_like(y), probe=True)
    clipped = layer.backward(tape, 10 * np.ones_like(y), probe=True, clip_step=0.5)
    assert np.abs(free.steps[0]).max() > 5 and np.abs(clipped.steps[0]).max() == 0.5
    assert not np.array_equal(free.x, clipped.x)
    with pytest.raises(ValueError, match="clip_step: expected a bound above 0 or None, got 0"):
        layer.backward(tape, y, clip_step=0)


@pytest.mark.parametrize(
    ("marks", "kind", "words"),
    [
        ({"mask": np.ones((T, B))}, TypeError, r"mask: expected bool \[T, B\], got float64"),
        ({"reset": np.ones((B, T), bool)}, ValueError, rf"reset: expected \[T, B\] \[{T}, {B}\], got \[{B}, {T}\]"),
    ],
)
def test_wrong_marks(marks: dict[str, Any], kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        layer_of("GRU", {})(np.zeros((T, B, IN)), **marks)


def test_zoneout_of_one_holds_the_state_exactly() -> None:
    """In inference the old state's share is a product, not a difference: h' is not lost beside a large new h."""
    layer = rk.RNN(1, 1, nonlinearity="relu", zoneout=1.0)
    layer.load_state_dict({name: np.ones_like(value) for name, value in layer.params.items()})
    h_0 = np.full((1, 1, 1), 0.1, np.float32)
    for x in (1e9, np.inf):
        y, h_n = layer(np.full((2, 1, 1), x, np.float32), h_0)
        assert (y == h_0).all() and np.array_equal(h_n, h_0)


def test_numbers_that_the_dtype_cannot_hold_are_refused() -> None:
    for options, words in (({"clip": 1e-46}, "clip"), ({"activations": (("Affine", 1e39, 0.0),)}, "activations")):
        with pytest.raises(ValueError, match=words):
            rk.RNN(IN, H, **options)
        rk.RNN(IN, H, dtype="float64", **options)


def test_a_spec_pickled_before_options_were_there() -> None:
    """What an older state lacks has the default."""
    spec = rk.GRU(IN, H).spec
    old = {name: value for name, value in spec.__getstate__().items() if name not in ("reverse", "options")}
    revived = object.__new__(type(spec))
    revived.__dict__.update(old)
    assert hash(revived) == hash(spec) and revived.__getstate__() == spec.__getstate__()


def test_one_activation_needs_no_sequence() -> None:
    """What help() says: by name, or as (name, alpha, beta)."""
    for given, full in (("Relu", ("Relu",)), (("LeakyRelu", 0.1), (("LeakyRelu", 0.1),)), (("relu",), ("Relu",))):
        assert rk.RNN(3, 4, activations=given).activations == rk.RNN(3, 4, activations=full).activations
        assert rk.RNNCell(3, 4, activations=given).activations == rk.RNNCell(3, 4, activations=full).activations
    with pytest.raises(TypeError, match=r"activations: expected a sequence of 2 .*got 'Relu'"):
        rk.GRU(3, 4, activations="Relu")
    with pytest.raises(ValueError, match=r"activations: expected 1 \(.*\), got 2"):
        rk.RNN(3, 4, activations=("Relu", "Tanh"))
    with pytest.raises(ValueError, match="Relu takes nothing"):
        rk.RNN(3, 4, activations=("Relu", 1.0))
