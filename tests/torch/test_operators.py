"""rnnkern.torch's operators: torch's own checks, the bits of the plain way, who gets to see them."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from rnnkern.torch import autograd, kernels, operators
from torch_cases import IN, LAYERS, LENGTHS, B, Seen, T, arguments, given, make

# torch scripts its own decompositions at the first use of forward mode.
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("name", LAYERS)
def test_operators_pass_torchs_own_checks(name: str, lengths: Tensor | None) -> None:
    """Schema, fake tensors, autograd registration and AOTAutograd with symbols, by torch.library.opcheck."""
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    both = [arguments(name, lengths, need) for need in (False, True)]
    for call in both:
        torch.library.opcheck(operators.layer, call, test_utils=tests)
        # Not compared between two runs: of the reserve, what a row's padding would have filled is whatever was there.
        torch.library.opcheck(operators.layer_train, call, test_utils=tests[:3])
    call = both[0]
    y, _, c_n, reserve = operators.layer_train(*call)
    dc_n = torch.ones_like(c_n) if "LSTM" in name else None
    x, h_0, c_0, params, *rest = call
    needs = [value is not None for value in (x, h_0, c_0, *params)]
    back = (torch.ones_like(y), None, dc_n, x, h_0, c_0, params, y, reserve, *rest, needs)
    torch.library.opcheck(operators.layer_backward, back, test_utils=tests[:3])


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "lengths"])
@pytest.mark.parametrize("name", LAYERS)
def test_operators_give_the_bits_of_the_plain_way(name: str, lengths: Tensor | None) -> None:
    call = arguments(name, lengths, True)
    x, h_0, c_0, params, _, masks, *rest = call
    options = kernels.Options(*rest)
    spec = kernels.spec_for(options, x, params)
    rows = None if lengths is None else lengths.numpy()
    direct = autograd.Call(options, spec, rows, masks, True)
    outputs = [
        [value for value in way if value is not None and value.numel()]
        for way in (operators.layer(*call), autograd.recurrence(direct, x, h_0, c_0, params))
    ]
    inputs = [t for t in (x, h_0, c_0, *params) if t is not None]
    grads = [torch.autograd.grad([o.square().sum() for o in output], inputs) for output in outputs]
    for a, b in zip(outputs[0] + list(grads[0]), outputs[1] + list(grads[1]), strict=True):
        assert torch.equal(a, b)


def test_operators_check_their_arguments() -> None:
    x, h_0, c_0, params, _, masks, *rest = arguments("LSTM", None, False)
    wrong: list[tuple[type[Exception], str, tuple[Any, ...]]] = [
        (RuntimeError, r"expected x \[T, B, I\] and 2 or 4 parameters", (x[0], h_0, c_0, params, None, masks)),
        (RuntimeError, r"2 or 4 parameters, got .* and 3", (x, h_0, c_0, params[:3], None, masks)),
        (RuntimeError, "weight_ih_l0: expected", (x[..., :1].contiguous(), h_0, c_0, params, None, masks)),
        (RuntimeError, "bias_hh_l0: expected", (x, h_0, c_0, [*params[:3], params[3][:-1]], None, masks)),
        (RuntimeError, "weight_ih_l0: expected .*float32", (x.float(), h_0, c_0, params, None, masks)),
        (NotImplementedError, "expected one of float32", (x.cfloat(), h_0, c_0, params, None, masks)),
        (ValueError, r"lengths\[1\]: expected 0 <= length <= T = 4, got 9", (
            x, h_0, c_0, params, torch.tensor([1, 9, 1]), masks,
        )),
        (ValueError, r"h_0: expected shape", (x, h_0[:, :1], c_0, params, None, masks)),
    ]  # fmt: skip
    for error, sentence, call in wrong:
        with pytest.raises(error, match=sentence):
            operators.layer(*call, *rest)


def test_modes_see_one_operator_for_each_call() -> None:
    module, reference = make("LSTM stack", torch.float32)
    x, hx = given("LSTM stack", dtype=torch.float32)
    with Seen() as seen:
        y = module(x, hx)[0]
        y.sum().backward()
        with torch.no_grad():
            module(x)
        module(x.new_zeros(0, B, IN))
    assert seen.names == ["layer_train", "layer_backward", "layer", "layer_train"]
    assert torch.allclose(y, reference(x, hx)[0], atol=1e-6)


def test_tensors_of_other_classes_see_an_operator() -> None:
    names: list[str] = []

    class Logged(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            names.append(getattr(func, "__name__", str(func)))
            return super().__torch_function__(func, types, args, kwargs or {})

    module = make("GRU", torch.float32)[0]
    y = module(torch.randn(T, B, IN).as_subclass(Logged))[0]
    assert isinstance(y, Logged)
    assert any("layer" in name for name in names)


def test_the_package_may_be_imported_again() -> None:
    """Operators are registered once in a process; graphs and modules of before go on, beside those of after."""
    code = """
import sys, torch, rnnkern.torch as rt
x = torch.ones(5, 2, 3)
torch.manual_seed(0)
old = rt.LSTM(3, 4)
wanted = old(x)[0]
compiled = torch.compile(old, backend="eager", fullgraph=True)
assert torch.equal(compiled(x)[0], wanted)
for again in range(2):
    for name in [n for n in sys.modules if n.split(".")[0] == "rnnkern"]:
        del sys.modules[name]
    import rnnkern.torch as new
    torch.manual_seed(0)
    fresh = new.LSTM(3, 4)
    assert new is not rt and type(fresh) is not type(old)
    for layer in (old, fresh):
        assert torch.equal(layer(x)[0], wanted)
        assert torch.equal(torch.compile(layer, backend="eager", fullgraph=True)(x)[0], wanted)
        layer(x)[0].sum().backward()
assert torch.equal(compiled(x)[0], wanted)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
