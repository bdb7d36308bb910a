"""Numbers that onnxruntime's own C++ tests expect of RNN, GRU and LSTM, through rnnkern's provider.

Source: microsoft/onnxruntime, onnxruntime/test/providers/cpu/rnn (rnn_op_test.cc, deep_cpu_gru_op_test.cc,
deep_cpu_lstm_op_test.cc). Only inputs and expected outputs are taken; names are those of the tests there.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest

import rnnkern.onnx as ro
from onnx_graphs import PROVIDER, options, taken
from onnx_models import GATES, Array, Case


class Vector(NamedTuple):
    op: str
    name: str
    sizes: tuple[int, int, int, int]  # T, B, I, H
    inputs: dict[str, Any]  # flat; W, R, B and P are repeated for a second direction
    outputs: dict[str, Any]
    attributes: dict[str, Any] = {}  # noqa: RUF012


def _flat(text: str) -> list[float]:
    return [float(number) for number in text.split()]


# RNN: inputs and outputs as [B, T, ...] there ------------------------------------------------------------------------

RNN = [
    Vector(
        "RNN", "RNN_bidirectional_bias_initial_zigged_batch", (5, 2, 2, 3),
        {
            "X": _flat("1.64644051 2.14556813 1.80829012 1.63464952 1.27096438 1.93768239 1.31276166 2.67531896"
                       " 2.89098835 1.15032458"
                       " 1.30798471 0.0777787 1.64898741 1.30596721 1.26110339 0.99100447 0 0 0 0"),
            "W": _flat("0.4317745 0.37378395 -1.0386457 -0.22681296 0.4418987 0.49973935"
                       " 0.47248289 -0.63369429 0.89542073 0.69698066 0.65118814 1.0828459"),
            "R": _flat("-0.24072374 -0.29326528 -0.91741192 0.5447638 0.53938544 0.79502326 -0.59813821"
                       " 0.020413321 -0.52225035"
                       " -0.4292987 -0.14766316 -0.91084105 0.23699039 0.064034894 0.089069292 -0.12803128"
                       " -0.081178986 0.967533"),
            "B": _flat("-0.44529742 0.80094892 -1.0028138 0 0 0 0.57412368 0.13440208 -0.85748988 0 0 0"),
            "sequence_lens": [5, 3],
            "initial_h": [1.2] * 12,
        },
        {
            "Y": _flat("-0.58767605 0.69586837 -0.48001164 -0.71697658 0.99646497 0.9980582"
                       " 0.8678354 -0.94409049 0.8424542 -0.37213817 0.99391747 0.99555576"
                       " 0.12221602 -0.31430662 -0.42285997 -0.62726945 0.988343 0.9956606"
                       " 0.91737539 -0.92293501 0.78396499 -0.87013513 0.99671143 0.9990834"
                       " 0.51060104 -0.95055139 -0.12672578 -0.51847482 0.99931973 0.99655205"
                       " -0.92063117 0.93283325 -0.93614483 0.1513377 0.90150106 0.74947751"
                       " 0.91569924 -0.96036619 0.89311725 -0.13006453 0.98576784 0.98875856"
                       " -0.28076148 -0.04275616 -0.75480938 -0.84641802 0.98438591 0.96007115 0 0 0 0 0 0 0 0"
                       " 0 0 0 0"),
            "Y_h": _flat("0.51060104 -0.95055139 -0.12672578 -0.28076148 -0.04275616 -0.75480938"
                         " -0.71697658 0.99646497 0.9980582 0.1513377 0.90150106 0.74947751"),
        },
        {"direction": "bidirectional"},
    ),
    Vector(
        "RNN", "RNN_reverse_direction_zigged_batch", (5, 2, 2, 3),
        {
            "X": _flat("0.54881352 0.71518934 0.60276335 0.54488319 0.42365479 0.64589411 0.4375872 0.89177299"
                       " 0.96366274 0.38344151"
                       " 0.41702199 0.720324516 0.0001143748 0.30233258 0.146755889 0.0923385918 0 0 0 0"),
            "W": _flat("0.60482931 0.67304987 0.13166776 -0.33417314 0.66345924 -0.49411628"),
            "R": _flat("0.50877059 0.78382635 0.665046 0.89860243 -0.71745688 0.80142093 -0.76517141"
                       " -0.88981366 -0.48568386"),
            "B": [0.0] * 6,
            "sequence_lens": [5, 3],
            "initial_h": [0.0] * 6,
        },
        {
            "Y": _flat("0.87014002 0.09402763 -0.54269236 0.37661949 0.28492415 0.15850827 0.8218801"
                       " -0.33996487 -0.7320742"
                       " 0.90398145 0.61396617 -0.70602065 0.68629962 -0.00125255 0.4218055"
                       " 0.64809889 -0.19472955 -0.24271242 0.29596764 0.08308408 -0.27175695 0.14977546"
                       " -0.01153355 0.05169443"
                       " 0 0 0 0 0 0"),
            "Y_h": _flat("0.87014002 0.09402763 -0.54269236 0.64809889 -0.19472955 -0.24271242"),
        },
        {"direction": "reverse"},
    ),
]  # fmt: skip

# GRU -----------------------------------------------------------------------------------------------------------------

_SIMPLE = {"X": [1, 2, 10, 11], "W": _flat("0.1 0.2 0.3 1 2 3 10 11 12"), "R": [0.1] * 27}
_FORWARD = _flat("0.4750208 0.450166 0.4255575 0.45016602 0.40131235 0.35434368")
_FORWARD_END = _flat("0.6027093 0.5083023 0.44950223 0.5754369 0.45485455 0.3747841")
_REVERSE = _flat("0.6082785 0.50623393 0.4426924 0.5803454 0.4527356 0.36886263")
_REVERSE_END = _flat("0.26894143 0.11920292 0.04742587 0.24973989 0.09975048 0.03557118")
_BIASED = {
    "X": [-0.1, 0.2, -0.3, 0.4],
    "W": _flat("0.1 0.2 0.3 0.2 0.3 0.1 0.3 0.1 0.2"),
    "R": [0.1] * 27,
    "B": _flat("-0.01 0.1 0.01 -0.2 -0.02 0.02 0.3 -0.3 -0.3 -0.03 0.5 -0.7 0.05 -0.7 0.3 0.07 -0.03 0.5"),
}
_CONTEXT = {
    "X": [-0.455351, -0.276391, -0.185934, -0.269585],
    "W": _flat("-0.494659 0.0453352 -0.487793 0.417264 -0.0091708 -0.255364 -0.106952 -0.266717"
               " -0.0888852 -0.428709 -0.283349 0.208792"),
    "R": _flat("0.146626 -0.0620289 -0.0815302 0.100482 -0.228172 0.405972 0.31576 0.281487"
               " -0.394864 0.42111 -0.386624 -0.390225"),
    "B": _flat("0.381619 0.0323954 -0.258721 0.45056 -0.250755 0.0967895 0 0 0 0 0 0"),
}  # fmt: skip
_TWICE = {**_CONTEXT, "X": [-0.455351, -0.276391] * 2 + [-0.185934, -0.269585] * 2, "initial_h": [0.5, -0.5, 0, 0]}
_BEFORE = {"linear_before_reset": 1}
GRU = [
    Vector("GRU", "ForwardDefaultActivationsSimpleWeightsNoBiasTwoRows", (2, 2, 1, 3), _SIMPLE,
           {"Y": _FORWARD + _FORWARD_END, "Y_h": _FORWARD_END}),
    Vector("GRU", "ReverseDefaultActivationsSimpleWeightsNoBiasTwoRows", (2, 2, 1, 3), _SIMPLE,
           {"Y": _REVERSE + _REVERSE_END, "Y_h": _REVERSE}, {"direction": "reverse"}),
    Vector("GRU", "BidirectionalDefaultActivationsSimpleWeightsNoBiasTwoRows", (2, 2, 1, 3), _SIMPLE,
           {"Y": _FORWARD + _REVERSE + _FORWARD_END + _REVERSE_END, "Y_h": _FORWARD_END + _REVERSE},
           {"direction": "bidirectional"}),
    Vector("GRU", "ForwardDefaultActivationsSimpleWeightsWithBiasBatchParallel", (2, 2, 1, 3), _BIASED,
           {"Y": _flat("0.16783132 -0.11754231 0.11977843 0.2046872 -0.10372487 0.15365849"
                       " 0.22688604 -0.19698407 0.14017843 0.33386092 -0.15799662 0.2381169")}),
    Vector("GRU", "ForwardDefaultActivationsSimpleWeightsWithBiasBatchParallelLinearBeforeReset", (2, 2, 1, 3), _BIASED,
           {"Y": _flat("0.15024948 -0.11097029 -0.02121867 0.18887489 -0.09747667 0.02093463"
                       " 0.19538902 -0.19016478 -0.05644283 0.30856851 -0.15190377 0.05999807")}, _BEFORE),
    Vector("GRU", "ReverseDefaultActivationsSimpleWeightsWithBiasBatchParallelLinearBeforeReset", (2, 2, 1, 3), _BIASED,
           {"Y": _flat("0.20910699 -0.18880953 -0.04005555 0.29700265 -0.15308119 0.04537245"
                       " 0.12252139 -0.12032216 -0.05064924 0.21249877 -0.08884402 0.04751285")},
           {**_BEFORE, "direction": "reverse"}),
    Vector("GRU", "TestGRUOpForwardBasic", (2, 1, 2, 2), _CONTEXT,
           {"Y": [-0.03255286, 0.0774838, -0.05556786, 0.0785508], "Y_h": [-0.05556786, 0.0785508]}),
    Vector("GRU", "TestGRUOpBidirectionalBasic", (2, 1, 2, 2), {**_CONTEXT, "sequence_lens": [2]},
           {"Y": _flat("-0.03255286 0.0774838 -0.05469977 0.1004222 -0.05556786 0.0785508 -0.04566499 0.04621252"),
            "Y_h": [-0.05556786, 0.0785508, -0.05469977, 0.1004222]},
           {"direction": "bidirectional", "activations": ["sigmoid", "tanh"] * 2}),
    Vector("GRU", "TestGRUOpForwardActivation", (2, 1, 2, 2), _CONTEXT,
           {"Y": [0.222789, 0.4669829, 0.3810334, 0.4944591]}, {"activations": ["tanh", "sigmoid"]}),
    Vector("GRU", "TestGRUOpForwardInitialHiddenState", (2, 1, 2, 2), {**_CONTEXT, "initial_h": [0.5, -0.5]},
           {"Y": [0.2366661, -0.1500429, 0.07378622, -0.02782359], "Y_h": [0.07378622, -0.02782359]}),
    Vector("GRU", "TestGRUOpForwardBatch", (2, 2, 2, 2), _TWICE,
           {"Y": _flat("0.2366661 -0.1500429 -0.03255286 0.0774838 0.07378622 -0.02782359 -0.05556786 0.0785508"),
            "Y_h": [0.07378622, -0.02782359, -0.05556786, 0.0785508]}),
    Vector("GRU", "TestGRUOpForwardBatchLinearBeforeReset", (2, 2, 2, 2), _TWICE,
           {"Y": _flat("0.2539424 -0.174207777 -0.0325528607 0.0774837881"
                       " 0.0874997079 -0.0485242009 -0.0577347837 0.0796165839")}, _BEFORE),
    Vector("GRU", "TestGRUOpGrowBatchSequenceLength", (2, 2, 2, 2), {**_TWICE, "sequence_lens": [2, 1]},
           {"Y": _flat("0.2366661 -0.1500429 -0.03255286 0.0774838 0.07378622 -0.02782359 0 0"),
            "Y_h": [0.07378622, -0.02782359, -0.03255286, 0.0774838]}),
    Vector("GRU", "TestGRUOpSequenceLengthWithBidirectionalLinearBeforeResetB2", (2, 1, 2, 2),
           {**_CONTEXT, "X": [0.855351, 0.676391, 0.585934, 0.669585]},
           {"Y": _flat("-0.275918573 -0.002285585 -0.385578573 0.0370728001"
                       " -0.382134795 0.0607641526 -0.24875176 0.0347689129")},
           {**_BEFORE, "direction": "bidirectional"}),
]  # fmt: skip

# LSTM ----------------------------------------------------------------------------------------------------------------

_PLAIN = {"X": [1, 2, 10, 11], "W": _flat("0.1 0.2 0.3 0.4 1 2 3 4 10 11 12 13"), "R": [0.1] * 36}
_H1 = _flat("0.28828835 0.36581863 0.45679406 0.34526032 0.47220859 0.55850911")
_H2 = _flat("0.84196719 0.89402526 0.91073048 0.85882828 0.90703777 0.92382453")
_C2 = _flat("1.27731147 1.44181041 1.53179041 1.3249796 1.51063104 1.61451544")
_BACK1 = _flat("0.55391603 0.69201493 0.82696019 0.64046413 0.82303363 0.91610711")
_BACK2 = _flat("0.61249432 0.70678632 0.74094619 0.62759886 0.71640738 0.74624585")
_BACK_C = _flat("1.27850552 1.46799496 1.57641257 1.34960834 1.54772296 1.65633056")
_CELL = {
    "X": _CONTEXT["X"],
    "W": _flat("-0.494659 0.0453352 -0.487793 0.417264 -0.0175329 0.489074 -0.446013 0.414029"
               " -0.0091708 -0.255364 -0.106952 -0.266717 -0.0888852 -0.428709 -0.283349 0.208792"),
    "R": _flat("0.146626 -0.0620289 -0.0815302 0.100482 -0.219535 -0.306635 -0.28515 -0.314112"
               " -0.228172 0.405972 0.31576 0.281487 -0.394864 0.42111 -0.386624 -0.390225"),
    "B": _flat("0.381619 0.0323954 -0.14449 0.420804 -0.258721 0.45056 -0.250755 0.0967895 0 0 0 0 0 0 0 0"),
}  # fmt: skip
_PEEP = {**_CELL, "P": _flat("0.2345 0.5235 0.4378 0.3475 0.8927 0.3456")}
_NO_BIAS = {name: value for name, value in _PEEP.items() if name != "B"}
LSTM = [
    Vector("LSTM", "ForwardSimpleWeightsNoBiasTwoRows", (2, 2, 1, 3), _PLAIN, {"Y": _H1 + _H2, "Y_h": _H2, "Y_c": _C2}),
    Vector("LSTM", "ReverseSimpleWeightsNoBiasTwoRows", (2, 2, 1, 3), _PLAIN,
           {"Y": _BACK1 + _BACK2, "Y_h": _BACK1, "Y_c": _BACK_C}, {"direction": "reverse"}),
    Vector("LSTM", "BidirectionalSimpleWeightsNoBiasTwoRows", (2, 2, 1, 3), _PLAIN,
           {"Y": _H1 + _BACK1 + _H2 + _BACK2, "Y_h": _H2 + _BACK1, "Y_c": _C2 + _BACK_C},
           {"direction": "bidirectional"}),
    Vector("LSTM", "MixedSequenceLengths", (2, 2, 1, 3), {**_PLAIN, "sequence_lens": [1, 2]},
           {"Y": _H1 + [0.0] * 3 + _H2[3:], "Y_h": _H1[:3] + _H2[3:],
            "Y_c": [0.52497941, 0.54983425, 0.5744428, *_C2[3:]]}),
    Vector("LSTM", "MixedSequenceLengthsReverse", (2, 2, 1, 3), {**_PLAIN, "sequence_lens": [2, 1]},
           {"Y": _BACK1[:3] + [0.34526044, 0.47220877, 0.55850935] + _BACK2[:3] + [0.0] * 3,
            "Y_h": [*_BACK1[:3], 0.34526044, 0.47220877, 0.55850935],
            "Y_c": [*_BACK_C[:3], 0.54983425, 0.59868795, 0.64565659]}, {"direction": "reverse"}),
    Vector("LSTM", "BatchParallelFalseSeqLengthGreaterThanOne", (2, 1, 1, 2),
           {"X": [1, 2], "W": _flat("0.1 0.2 0.3 0.4 1 2 3 4"), "R": [0.1] * 16},
           {"Y": _flat("0.27546653 0.29941525 0.50903179 0.57476457"), "Y_c": [1.02721067, 1.15254318]}),
    Vector("LSTM", "TestLSTMForwardPeepHole", (2, 1, 2, 2), _PEEP,
           {"Y": _flat("-0.0251062475 0.0561261699 -0.03277518 0.05935364"), "Y_c": [-0.0780206, 0.098829]}),
    Vector("LSTM", "TestLSTMBidirectionalBasic", (2, 1, 2, 2), _PEEP,
           {"Y": _flat("-0.0251062 0.0561262 -0.0318928 0.0762679 -0.0327752 0.0593536 -0.0306872 0.028035"),
            "Y_c": _flat("-0.0780206 0.098829 -0.0753684 0.120794")}, {"direction": "bidirectional"}),
    Vector("LSTM", "TestLSTMForwardNoBiasUsePeepholes", (2, 1, 2, 2), _NO_BIAS,
           {"Y": _flat("0.04154162 0.01969122 0.05298181 0.0030589"), "Y_c": [0.11169686, 0.00625722]}),
    Vector("LSTM", "TestLSTMForwardInputForget", (2, 1, 2, 2), _PEEP,
           {"Y": _flat("-0.02510626 0.05612619 -0.0314321 0.05087372"), "Y_c": [-0.07474898, 0.08480116]},
           {"input_forget": 1, "clip": 999.0}),
    Vector("LSTM", "TestLSTMForwardClip", (2, 1, 2, 2), _PEEP,
           {"Y": _flat("-0.02280854 0.02744377 -0.03516197 0.03875681"), "Y_c": [-0.07415761, 0.07395997]},
           {"clip": 0.1}),
    Vector("LSTM", "TestLSTMBackward", (2, 1, 2, 2), _PEEP,
           {"Y": _flat("-0.03189282 0.07626793 -0.03068724 0.02803503"), "Y_c": [-0.07536839, 0.12079399]},
           {"direction": "reverse"}),
    Vector("LSTM", "TestLSTMForwardCellState", (2, 1, 2, 2),
           {**_CELL, "initial_h": [0.34, 0.72], "initial_c": [0.63, 0.21]},
           {"Y": _flat("0.12797015 0.0097284 0.02716939 0.01842997"), "Y_c": [0.06408449, 0.03139432]}),
    Vector("LSTM", "TestLSTMForwardHiddenState", (2, 1, 2, 2), {**_CELL, "initial_h": [0.34, 0.72]},
           {"Y": _flat("0.01797521 -0.07104912 -0.03174796 -0.0152949"), "Y_c": [-0.07285583, -0.02545788]}),
    Vector("LSTM", "TestLSTMActivation", (2, 1, 2, 2), _CELL,
           {"Y": _flat("-0.0660155 0.0351227 -0.04236888 0.0177365"), "Y_c": [0.1624992, 0.04672481]},
           {"activations": ["tanh", "sigmoid", "tanh"]}),
    Vector("LSTM", "TestLSTMBatchReallocation", (2, 3, 2, 2),
           {**_CELL, "X": _flat("-0.455351 -0.476391 -0.555351 -0.376391 -0.655351 -0.276391"
                                " -0.185934 -0.869585 -0.285934 -0.769585 -0.385934 -0.669585")},
           {"Y": _flat("-0.090715 0.011908 -0.083193 0.037192 -0.073643 0.068889"
                       " -0.10545 -0.01573 -0.10621 -0.0056667 -0.10559 0.015734"),
            "Y_c": _flat("0.21381 -0.096022 0.23038 -0.0239 0.24572 0.051626")},
           {"activations": ["tanh", "sigmoid", "tanh"]}),
]  # fmt: skip


def case_of(vector: Vector) -> tuple[Case, dict[str, Array]]:
    T, B, I, H = vector.sizes  # noqa: E741
    D, G = 2 if vector.attributes.get("direction") == "bidirectional" else 1, GATES[vector.op]
    shapes = {"X": (T, B, I), "W": (D, G * H, I), "R": (D, G * H, H), "B": (D, 2 * G * H), "P": (D, 3 * H)}
    shapes |= {"initial_h": (D, B, H), "initial_c": (D, B, H), "sequence_lens": (B,)}
    shapes |= {"Y": (T, D, B, H), "Y_h": (D, B, H), "Y_c": (D, B, H)}

    def array(name: str, flat: Any) -> Array:
        values = np.array(flat, np.int32 if name == "sequence_lens" else np.float32)
        if vector.op == "RNN" and name in ("X", "Y"):  # [B, T, ...] there
            rows = values.reshape(B, T, *((I,) if name == "X" else (D, H)))
            return rows.swapaxes(0, 1) if name == "X" else rows.transpose(1, 2, 0, 3)
        size = int(np.prod(shapes[name]))
        return (
            np.resize(values, size).reshape(shapes[name])
            if name in ("W", "R", "B", "P")
            else values.reshape(shapes[name])
        )

    values = {name: np.ascontiguousarray(array(name, flat)) for name, flat in vector.inputs.items()}
    wanted = {name: array(name, flat) for name, flat in vector.outputs.items()}
    names = ("Y", "Y_h", "Y_c")[: 3 if vector.op == "LSTM" else 2]
    outputs = tuple(name if name in wanted else "" for name in names)
    while not outputs[-1]:
        outputs = outputs[:-1]
    return Case(vector.op, 14, {"hidden_size": H, **vector.attributes}, values, outputs), wanted


@pytest.mark.parametrize("vector", [*RNN, *GRU, *LSTM], ids=lambda vector: f"{vector.op} {vector.name}")
def test_onnxruntimes_own_vectors(vector: Vector) -> None:
    """Within what the numbers have: five digits and more."""
    case, wanted = case_of(vector)
    for constant in (True, False):
        session = ro.session(case.model(constant), options())
        assert list(taken(session)) == [PROVIDER]
        for name, value in zip(wanted, session.run(list(wanted), case.feeds(constant)), strict=True):
            np.testing.assert_allclose(value, wanted[name], rtol=1e-4, atol=5e-6)
