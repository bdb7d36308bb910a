"""rnnkern.onnx.session: onnxruntime runs the graph, rnnkern its recurrent nodes."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import onnx_judges
import rnnkern.onnx as ro
from onnx_graphs import PROVIDER, in_function, in_if, in_loop, in_scan, node_tests, options, run, session_of, taken
from onnx_judges import EPS, worst
from onnx_models import PARAMETERS, Case, draw, model_of, truth, with_states

OPS = ("RNN", "GRU", "LSTM")


def is_left(case: Case) -> bool:
    """The reading of onnxruntime and of ONNX differ: a parameter has no value, and no default that both have."""
    names = [n for given in case.attributes.get("activations", []) for n in PARAMETERS if n.lower() == given.lower()]
    takers = [name for name in names if PARAMETERS[name]]
    return "ThresholdedRelu" in takers[len(case.attributes.get("activation_alpha", [])) :]


@pytest.mark.parametrize("constant", [True, False], ids=["constant weights", "weights as inputs"])
@pytest.mark.parametrize("op", OPS)
def test_every_attribute_dtype_and_layout(op: str, constant: bool) -> None:
    """The kernels' own bound (test_nodes.py)."""
    for case in (draw(seed) for seed in range(300)):
        if case.op != op or is_left(case):
            continue
        session = session_of(case, constant)
        assert "node" in taken(session)[PROVIDER], case
        assert worst(run(session, case, constant), truth(case)) <= 64 * EPS[case.dtype], case


@pytest.mark.parametrize("opset", [7, 14, 22])
@pytest.mark.parametrize("op", OPS)
def test_every_opset_that_onnxruntime_loads(op: str, opset: int) -> None:
    case = replace(with_states(model_of(op, 2), [4, 1, 2]), opset=opset)
    assert worst(run(session_of(case), case), truth(case)) <= 64 * EPS["float32"]


@pytest.mark.parametrize("test", node_tests(*OPS))
def test_onnx_own_node_tests(test: Any) -> None:
    """Those that onnxruntime's own provider refuses (layout=1) as well."""
    session = ro.session(test.model, options())
    assert list(taken(session)) == [PROVIDER]
    for inputs, outputs in test.data_sets:
        got = session.run(None, {value.name: array for value, array in zip(session.get_inputs(), inputs, strict=True)})
        for a, b in zip(got, outputs, strict=True):
            np.testing.assert_allclose(a, b, rtol=test.rtol, atol=test.atol)


@pytest.mark.parametrize("left", ["ThresholdedRelu", "Affine"])
def test_a_node_that_is_read_otherwise_is_left_to_onnxruntime(left: str, capfd: pytest.CaptureFixture[str]) -> None:
    """onnxruntime has 0 where ONNX has 1 as alpha of ThresholdedRelu. A warning and its log say why."""
    case = model_of("GRU", activations=["Sigmoid", left])
    loud = options()
    loud.log_severity_level = 2
    said = f"left to onnxruntime: GRU node 'node': activation_alpha: expected a value for {left.lower()}"
    with pytest.warns(UserWarning, match=said):
        session = ro.session(case.model(), loud)
    assert PROVIDER not in taken(session) and said in capfd.readouterr().err
    wanted = onnx_judges.session(case.model()).run(None, case.feeds())
    assert all(np.array_equal(a, b) for a, b in zip(session.run(None, case.feeds()), wanted, strict=True))


def test_without_prepacking() -> None:
    """onnxruntime then hands constant weights to every call."""
    case = with_states(model_of("LSTM", 2), [4, 0, 2])
    again = run(session_of(case, disable_prepacking="1"), case)
    for name, value in run(session_of(case), case).items():
        assert np.array_equal(value, again[name])


def test_weights_of_which_some_are_constant() -> None:
    case = model_of("GRU", linear_before_reset=1)
    model = case.model(constant=False)
    for name in ("W", "B"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(case.values[name], name))
        model.graph.input.remove(next(value for value in model.graph.input if value.name == name))
    session = ro.session(model, options())
    got = session.run(None, {name: case.values[name] for name in ("X", "R")})
    assert worst(dict(zip(case.outputs, got, strict=True)), truth(case)) <= 64 * EPS["float32"]


def test_weights_that_others_read_too() -> None:
    """Two nodes have the same initializers, of which another operator reads one."""
    case = model_of("GRU", linear_before_reset=1)
    model = case.model()
    again = onnx.helper.make_node("GRU", ["X", "W", "R", "B"], ["Y2"], "again", **case.attributes)
    model.graph.node.extend([again, onnx.helper.make_node("Sin", ["W"], ["sine"])])
    for name, axes in (("Y2", 4), ("sine", 3)):
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [None] * axes)
        model.graph.output.append(value)
    session = ro.session(model, options())
    assert sorted(taken(session)[PROVIDER]) == ["again", "node"]
    for _ in range(2):
        y, _, y2, sine = session.run(None, case.feeds())
        assert worst({"Y": y}, truth(case)) <= 64 * EPS["float32"] and np.array_equal(y, y2)
        np.testing.assert_allclose(sine, np.sin(case.values["W"]), rtol=1e-6)


# int8 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("op", OPS)
def test_weights_in_int8_have_the_bits_of_the_layer(op: str, directions: int) -> None:
    case = large(op, directions)
    model = case.model()
    exact, rounded = (ro.session(model, options(), weights).run(None, case.feeds()) for weights in (None, "int8"))
    layer = ro.from_onnx(model).quantize("int8")
    y, _ = layer(case.values["X"])
    T, B, _ = y.shape
    np.testing.assert_array_equal(rounded[0], y.reshape(T, B, directions, -1).swapaxes(1, 2))
    assert 0 < np.abs(rounded[0] - exact[0]).max() < 0.1


@pytest.mark.parametrize("per_channel", [False, True])
def test_a_lstm_that_onnxruntime_quantized(per_channel: bool, tmp_path: Path) -> None:
    """It loads as a layer, is put back as an LSTM, and runs with int8 weights of ours."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    case = large("LSTM", 2)
    onnx.save(case.model(), tmp_path / "whole.onnx")
    kind = quantization.QuantType.QInt8
    quantization.quantize_dynamic(
        tmp_path / "whole.onnx", tmp_path / "int8.onnx", weight_type=kind, per_channel=per_channel
    )
    model = onnx.load(tmp_path / "int8.onnx")
    assert [node.op_type for node in model.graph.node] == ["DynamicQuantizeLSTM"]
    exact = ro.from_onnx(case.model())
    (layer,) = ro.layers(model).values()
    for name, value in exact.params.items():
        step = np.abs(value).max() / 127 if "weight" in name else 0
        assert np.abs(layer.params[name] - value).max() <= 0.51 * step
    y, _ = layer(case.values["X"])
    T, B, _ = y.shape
    as_onnx = y.reshape(T, B, 2, -1).swapaxes(1, 2)
    (key,) = ro.layers(model)
    again = ro.session(ro.put_back(model, {key: layer}), options())
    assert list(taken(again)) == [PROVIDER]
    np.testing.assert_array_equal(again.run(None, case.feeds())[0], as_onnx)
    session = ro.session(model, options(), "int8")
    assert list(taken(session)) == [PROVIDER]
    rounded = session.run(None, case.feeds())[0]
    np.testing.assert_array_equal(rounded, layer.quantize()(case.values["X"])[0].reshape(T, B, 2, -1).swapaxes(1, 2))
    assert np.abs(as_onnx - rounded).max() < 0.1
    theirs = ro.session(model, options())
    assert PROVIDER not in taken(theirs)
    if not onnx_judges.int8_saturates():
        assert np.abs(theirs.run(None, case.feeds())[0] - rounded).max() < 0.1


def test_what_int8_refuses() -> None:
    case = model_of("GRU", linear_before_reset=1)
    with pytest.raises(ValueError, match="weights: expected 'int8' or None, got 'int4'"):
        ro.session(case.model(), options(), "int4")
    session = ro.session(case.model(constant=False), options(), "int8")
    with pytest.raises(Exception, match="GRU node 'node': W, R, B: expected constant weights for int8"):
        session.run(None, case.feeds(constant=False))
    wide = replace(case, values={name: value.astype(np.float64) for name, value in case.values.items()})
    with pytest.raises(Exception, match=r"GRU node 'node': .*RNNK_PROBLEM_INT8 is for float32 and float16"):
        ro.session(wide.model(), options(), "int8")
    broken = replace(case, values={**case.values, "R": np.full_like(case.values["R"], np.nan)})
    with pytest.raises(Exception, match=r"GRU node 'node': .*expected finite weights for int8"):
        ro.session(broken.model(), options(), "int8")
    wrong = options()
    wrong.add_provider_for_devices(
        [device for device in onnxruntime.get_ep_devices() if device.ep_name == ro.register()], {"weights": "int4"}
    )
    with pytest.raises(Exception, match="weights: expected 'int8' or none, got 'int4'"):
        onnxruntime.InferenceSession(case.model().SerializeToString(), wrong)


# Subgraphs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("where", ["if", "if, its own weights", "loop", "scan"])
def test_subgraphs(where: str, op: str) -> None:
    case = model_of(op)
    builders = {"loop": in_loop, "scan": in_scan}
    model, feeds = builders[where](case) if where in builders else in_if(case, inside="own" in where)
    session = ro.session(model, options())
    assert taken(session)[PROVIDER] == ["inner"]
    wanted = onnx_judges.session(model).run(None, feeds)
    for a, b in zip(session.run(None, feeds), wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)


def test_a_function_of_the_model() -> None:
    case = model_of("GRU")
    session = ro.session(in_function(case), options())
    assert len(taken(session)[PROVIDER]) == 1
    assert worst(run(session, case), truth(case)) <= 64 * EPS["float32"]


# Threads ------------------------------------------------------------------------------------------------------------


def large(op: str, directions: int = 1) -> Case:
    rng, (T, B, H) = np.random.default_rng(0), (24, 40, 96)
    case = model_of(op, directions)
    gates = case.values["R"].shape[1] // case.values["R"].shape[2]
    values = {
        "X": rng.normal(size=(T, B, H)),
        "W": rng.normal(0, H**-0.5, (directions, gates * H, H)),
        "R": rng.normal(0, H**-0.5, (directions, gates * H, H)),
    }
    attributes = {**case.attributes, "hidden_size": H}
    return replace(case, values={k: v.astype(np.float32) for k, v in values.items()}, attributes=attributes)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("directions", [1, 2])
def test_the_same_bits_on_any_number_of_threads(op: str, directions: int) -> None:
    case = large(op, directions)
    runs = [ro.session(case.model(), options(threads)).run(None, case.feeds()) for threads in (1, 2, 3)]
    for other in runs[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(runs[0], other, strict=True))


BUSY_THREADS = """
import os, pathlib, time
import rnnkern.onnx as ro
from onnx_graphs import options
from test_provider import large

def times():
    others = [path for path in pathlib.Path("/proc/self/task").iterdir() if int(path.name) != os.getpid()]
    return {path.name: int((path / "schedstat").read_text().split()[0]) for path in others}

def busy(call):
    before = times()
    for _ in range(100):
        call()
    time.sleep(0.1)
    return {task for task, spent in times().items() if spent - before.get(task, 0) > 2e6}

case = large("LSTM")
session = ro.session(case.model(), options(3, **{"intra_op.allow_spinning": "0"}))
layer = ro.layers(case.model())["node"]
call = lambda: session.run(None, case.feeds())
call(), layer(case.values["X"])
inside, outside = busy(call), busy(lambda: layer(case.values["X"]))
print(len(inside), len(outside), len(inside & outside))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_pool_of_threads() -> None:
    """A session's calls run on onnxruntime's threads, and those of a plain layer on the library's."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    env = {**os.environ, "PYTHONPATH": path, "RNNKERN_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", BUSY_THREADS], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    inside, outside, both = map(int, done.stdout.split())
    assert inside and outside and not both, done.stdout


def test_calls_of_one_session_at_the_same_time() -> None:
    for constant in (True, False):
        case = large("LSTM")
        session = ro.session(case.model(constant), options(2))
        wanted, results = session.run(None, case.feeds(constant)), []

        def call() -> None:
            for _ in range(5):
                results.append(session.run(None, case.feeds(constant)))  # noqa: B023

        workers = [threading.Thread(target=call) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert len(results) == 20
        assert all(np.array_equal(a, b) for got in results for a, b in zip(got, wanted, strict=True))


def test_what_torch_exports(tmp_path: Path) -> None:
    """A recurrent layer under a Linear, by both exporters: a model with an operator that computes."""
    torch = pytest.importorskip("torch")

    class Model(torch.nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = torch.nn.LSTM(3, 5, 2, bidirectional=True), torch.nn.Linear(10, 4)

        def forward(self, x: Any) -> Any:
            return self.head(self.lstm(x)[0])

    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(4, 2, 3)
    for dynamo in (False, True):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(model, (x,), tmp_path / "m.onnx", dynamo=dynamo, verbose=False)
        session = ro.session(tmp_path / "m.onnx", options())
        assert len(taken(session)[PROVIDER]) == 2
        with torch.no_grad():
            wanted = model(x).numpy()
        (got,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)
        assert len(ro.layers(onnx.load(tmp_path / "m.onnx"))) == 2


# The interface ------------------------------------------------------------------------------------------------------


def test_a_path_bytes_and_a_model(tmp_path: Path) -> None:
    case = model_of("LSTM")
    onnx.save(case.model(), tmp_path / "m.onnx")
    wanted = run(session_of(case), case)
    for model in (tmp_path / "m.onnx", str(tmp_path / "m.onnx"), case.model().SerializeToString(), case.model()):
        got = run(ro.session(model), case)
        assert all(np.array_equal(got[name], wanted[name]) for name in wanted)
    with pytest.raises(TypeError, match=r"model: expected a path, bytes or an onnx\.ModelProto, got int"):
        ro.session(3)


def test_sessions_with_the_same_options() -> None:
    case, own = large("GRU"), options(2)
    first = ro.session(case.model(), own).run(None, case.feeds())
    own.intra_op_num_threads = 3
    session = ro.session(case.model(), own)
    assert list(taken(session)) == [PROVIDER]
    assert own.get_session_config_entry("ep.rnnkernexecutionprovider.threads") == "3"
    assert all(np.array_equal(a, b) for a, b in zip(first, session.run(None, case.feeds()), strict=True))


def test_register_once_and_own_options() -> None:
    assert ro.register() == ro.register() == PROVIDER
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
    assert len(devices) == 1
    case = model_of("RNN")
    for given, said in (({"threads": "2"}, ""), ({}, ""), ({"threads": "-2"}, "threads: expected 0 to 256, got '-2'")):
        own = options()
        own.add_provider_for_devices(devices, given)
        if said:
            with pytest.raises(Exception, match=said):
                onnxruntime.InferenceSession(case.model().SerializeToString(), own, enable_fallback=False)
        else:
            session = onnxruntime.InferenceSession(case.model().SerializeToString(), own)
            assert list(taken(session)) == [PROVIDER]


def test_without_onnxruntime_or_with_an_old_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(__version__="1.16.3"))
    with pytest.raises(NotImplementedError, match=r"session: expected onnxruntime 1\.17 or later, got 1\.16\.3"):
        ro.session(b"")
    with pytest.raises(NotImplementedError, match=r"register: expected onnxruntime 1\.24 or later, got 1\.16\.3"):
        ro.register()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match="session needs onnxruntime; install it with: pip install onnxruntime"):
        ro.session(b"")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sequence_lens": np.array([5, 1, 2], np.int32)}, r"LSTM node 'node': .*lengths"),
        ({"sequence_lens": np.array([1, 2], np.int32)}, r"sequence_lens: expected shape \[3\], got \[2\]"),
        ({"X": np.zeros((4, 3, 2), np.float32)}, r"X: expected shape \[any, any, 3\], got \[4, 3, 2\]"),
        ({"initial_h": np.zeros((1, 3, 4), np.float32)}, r"initial_h: expected shape \[1, 3, 5\], got \[1, 3, 4\]"),
        ({"W": np.zeros((1, 20, 2), np.float32)}, r"X: expected shape \[any, any, 2\]"),
        ({"W": np.zeros((1, 19, 3), np.float32)}, r"W: expected a multiple of 4 gates"),
        ({"R": np.zeros((1, 16, 4), np.float32)}, r"R: expected hidden_size = 5 columns, got 4"),
        ({"B": np.zeros((2, 40), np.float32)}, r"B: expected shape \[1, 40\], got \[2, 40\]"),
    ],
)
def test_inputs_are_refused_by_name(changed: dict[str, Any], said: str) -> None:
    """In a model without shapes, so that only the kernel can see it."""
    case = with_states(model_of("LSTM"), [4, 0, 2])
    model = case.model(constant=False)
    for value in model.graph.input:
        value.type.tensor_type.ClearField("shape")
    with pytest.raises(Exception, match=f"(?s)rnnkern: LSTM node 'node'.*{said}|{said}"):
        ro.session(model, options()).run(None, {**case.feeds(constant=False), **changed})
