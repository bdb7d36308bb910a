"""torch.jit.script compiles the modules to the operator: the same bits, gradients and masks as eager calls."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import rnnkern.torch as rt

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch.jit is deprecated
IN, H = 3, 5
LAYERS: list[tuple[str, dict[str, Any]]] = [
    ("LSTM", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    ("LSTM", {"proj_size": 2, "bias": False}),
    ("GRU", {"num_layers": 2, "dropout": 0.5}),
    ("GRU", {"zoneout": 0.2, "clip": 1.0, "reverse": True}),
    ("RNN", {"nonlinearity": "relu", "dtype": torch.float64}),
    ("RNN", {}),
    ("sLSTM", {"heads": 1}),
]
CELLS: list[tuple[str, dict[str, Any]]] = [
    ("LSTMCell", {}),
    ("LSTMCell", {"peephole": True}),
    ("GRUCell", {"bias": False}),
    ("RNNCell", {"nonlinearity": "relu"}),
    ("sLSTMCell", {}),
]


def leaves(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else [leaf for part in value for leaf in leaves(part)]


def assert_equal(got: Any, wanted: Any) -> None:
    assert all(torch.equal(a, b) for a, b in zip(leaves(got), leaves(wanted), strict=True))


@pytest.mark.parametrize(("name", "options"), LAYERS)
def test_layers(name: str, options: dict[str, Any]) -> None:
    module = getattr(rt, name)(IN, H, **options)
    script, text = torch.jit.script(module), repr(module)
    assert repr(module) == text
    x = torch.randn(4, 6, IN, dtype=module.weight_ih_l0.dtype)
    state = module.eval()(x)[1]
    script.eval()
    assert_equal(script(x), module(x))
    assert_equal(script(x, state), module(x, state))
    assert_equal(script(x[0]), module(x[0]))
    steps, batch = (6, 4) if module.batch_first else (4, 6)
    lengths = torch.randint(0, steps + 1, (batch,))
    reset = torch.rand(x.shape[:2]) < 0.3
    assert_equal(script(x, None, lengths, ~reset, reset), module(x, None, lengths, ~reset, reset))
    answers = []
    for each in (script.train(), module.train()):
        x = x.detach().requires_grad_()
        module.zero_grad()
        torch.manual_seed(1)
        sum(leaf.square().sum() for leaf in leaves(each(x))).backward()
        answers.append([x.grad, *(parameter.grad.clone() for parameter in module.parameters())])
    assert_equal(*answers)  # masks included: a script shares the parameters and torch's generator


@pytest.mark.parametrize(("name", "options"), CELLS)
def test_cells(name: str, options: dict[str, Any]) -> None:
    cell = getattr(rt, name)(IN, H, **options)
    script, x = torch.jit.script(cell), torch.randn(4, IN)
    state = cell(x)
    assert_equal(script(x), state)
    assert_equal(script(x, state), cell(x, state))
    assert_equal(script(x[0]), cell(x[0]))


class Decoder(torch.nn.Module):
    """Layers and a cell in a loop whose length is data."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = torch.nn.GRU(IN, H)
        self.cell = torch.nn.LSTMCell(H, H)

    def forward(self, x: torch.Tensor, steps: int) -> torch.Tensor:
        h = self.encoder(x)[1][0]
        c = torch.zeros_like(h)
        for _ in range(steps):
            h, c = self.cell(h, (h, c))
        return h


def test_a_replaced_model_scripts_as_before_and_archives_load(tmp_path: Path) -> None:
    model, x = Decoder(), torch.randn(4, 2, IN)
    report = rt.replace(model)
    script = torch.jit.script(model)
    assert type(model.encoder) is rt.GRU and type(model.cell) is rt.LSTMCell
    assert torch.equal(script(x, 3), model(x, 3))
    script.save(str(tmp_path / "model.pt"))
    torch.save((x, model(x, 3)), tmp_path / "data.pt")
    program = (
        "import sys, torch\n{}x, wanted = torch.load('data.pt')\n"
        "assert torch.equal(torch.jit.load('model.pt')(x, 3), wanted)\n"
    )
    with_us = subprocess.run(
        [sys.executable, "-c", program.format("import rnnkern.torch\n")], cwd=tmp_path, capture_output=True, text=True
    )
    assert with_us.returncode == 0, with_us.stderr
    without = subprocess.run([sys.executable, "-c", program.format("")], cwd=tmp_path, capture_output=True, text=True)
    assert without.returncode and "Unknown builtin op: rnnkern::layer" in without.stderr
    report.undo()
    assert type(model.encoder) is torch.nn.GRU


def test_a_script_sees_new_weights_and_dtypes() -> None:
    module, other, x = rt.LSTM(IN, H), rt.LSTM(IN, H), torch.randn(4, 2, IN)
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(module), file)
    file.seek(0)
    for script in (torch.jit.script(module), torch.jit.load(file)):
        script.load_state_dict(other.state_dict())
        assert_equal(script(x), other(x))
        script.double()
        assert_equal(script(x.double()), _double(other)(x.double()))


def _double(module: rt.LSTM) -> rt.LSTM:
    twin = rt.LSTM(IN, H, dtype=torch.float64)
    twin.load_state_dict({name: value.double() for name, value in module.state_dict().items()})
    return twin


def test_what_a_script_cannot_do_is_refused_by_name() -> None:
    module = torch.nn.utils.parametrizations.weight_norm(rt.GRU(IN, H), "weight_hh_l0")
    with pytest.raises(RuntimeError, match=r"under torch\.jit\.script: a weight is computed anew"):
        torch.jit.script(module)
    script = torch.jit.script(rt.GRU(IN, H))
    with pytest.raises(torch.jit.Error, match="Expected input to be 2D or 3D, got 1D"):
        script(torch.zeros(IN))
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(torch.jit.Error, match="does not heed autocast"):
        script(torch.zeros(4, 2, IN, dtype=torch.bfloat16))
    with pytest.raises(torch.jit.Error, match="lengths: expected None with unbatched input"):
        script(torch.zeros(4, IN), None, torch.tensor([4]))
    with pytest.raises(RuntimeError, match="PackedSequence"):
        script(torch.nn.utils.rnn.pack_sequence([torch.zeros(4, IN)]))
