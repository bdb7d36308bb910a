"""rnnkern.torch on a GPU. Where ``_core`` was built on the SIMT executor, CPU tensors pose as ones of ``cuda:0`` on
their way to it (``posing.py``), so that all between a module and the binding runs here. What only a GPU shows is marked
``gpu``.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

import fake_cuda
import posing
import rnnkern as rk
import rnnkern.torch as rt
from rnnkern import _core
from rnnkern.torch import gpu, kernels

pytestmark = pytest.mark.usefixtures("torch_threads")

T, B, IN, H = 5, 3, 4, 6
# As in cuda/test_arrays.py: sums of at most IN + H + 1 terms below 1, a few steps and layers.
GROWTH = 200

REAL = torch.cuda.is_available()
real = [pytest.mark.gpu, pytest.mark.skipif(not REAL, reason="torch sees no GPU")]


@pytest.fixture
def generator(monkeypatch: pytest.MonkeyPatch) -> Iterator[posing.Generator]:
    """CPU tensors pose as tensors of a GPU during a test; what it is compared with is computed after ``undo``."""
    yield posing.pose(monkeypatch)
    monkeypatch.undo()
    posing.forget()
    fake_cuda.capturing[:] = [False]


def close(got: Any, want: Any, eps: float = 2.0**-23) -> None:
    """Tensors of one structure, to the rounding of a dtype."""
    if isinstance(want, (tuple, list)):
        assert len(got) == len(want)
        for each, other in zip(got, want, strict=True):
            close(each, other, eps)
        return
    if want is None:
        assert got is None
        return
    assert got.dtype == want.dtype and got.shape == want.shape
    got, want = got.detach().cpu().double(), want.detach().cpu().double()
    bound = GROWTH * eps * max(1.0, float(want.abs().max()) if want.numel() else 1.0)
    assert bool(((got - want).abs() <= bound).all()), float((got - want).abs().max())


def answers(module: Any, x: Tensor, states: Any = None, **keywords: Any) -> list[Any]:
    """Outputs, and gradients of the inputs and of every parameter."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, *(states or ()))]
    module.zero_grad(set_to_none=True)
    hx = None if states is None else tuple(leaves[1:]) if len(leaves) > 2 else leaves[1]
    y, last = module(leaves[0], hx, **keywords)
    last = last if isinstance(last, tuple) else (last,)
    (y.double().square().sum() + sum(state.double().sum() for state in last)).backward()
    return [y, *last, *(leaf.grad for leaf in leaves), *(p.grad for p in module.parameters())]


MODULES: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {"num_layers": 2, "bidirectional": True, "batch_first": True}),
    "rnn": ("RNN", {"nonlinearity": "relu", "bias": False}),
    "options": ("LSTM", {"proj_size": 4, "peephole": True}),
    "layer norm": ("GRU", {"layer_norm": True}),
    "slstm": ("sLSTM", {"num_layers": 2}),
}


def cases(name: str) -> tuple[Any, Tensor]:
    kind, keywords = MODULES[name]
    torch.manual_seed(0)
    module = getattr(rt, kind)(IN, H, **keywords)
    return module, torch.rand((B, T, IN) if module.batch_first else (T, B, IN)) * 2 - 1


@pytest.mark.posed
@pytest.mark.parametrize("lengths", [None, "host", "device"])
@pytest.mark.parametrize("name", MODULES)
def test_modules_are_the_cpus(
    name: str, lengths: str | None, generator: posing.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = cases(name)
    rows = None if lengths is None else torch.tensor([5, 0, 3])
    fake_cuda.log.clear()
    try:
        got = answers(module, x, lengths=rows.tolist() if lengths == "host" else rows)
    except NotImplementedError as declined:
        pytest.skip(str(declined))
    assert ("upload" in fake_cuda.log) == (lengths == "host") and "synchronize" not in fake_cuda.log
    assert kernels.spec_for(module._options(), x.new_empty(T, B, IN), module._weights()).device == "cuda:0"
    monkeypatch.undo()
    posing.forget()
    close(got, answers(module, x, lengths=rows))


@pytest.mark.posed
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_only_upper_layers_are_trained(
    frozen: int, generator: posing.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wavefront over the layers from the lowest that anything is asked of."""
    monkeypatch.setenv("RNNKERN_GPU_WAVE", "8")
    torch.manual_seed(0)
    module, x = rt.LSTM(IN, H, 3), torch.rand(20, B, IN)
    for name, weight in module.named_parameters():
        weight.requires_grad_(not name.endswith(tuple(f"_l{layer}" for layer in range(frozen))))
    trained = [weight for weight in module.parameters() if weight.requires_grad]

    def gradients() -> list[Any]:
        return list(torch.autograd.grad(module(x)[0].square().sum(), trained))

    got = gradients()
    assert len(got) == 4 * (3 - frozen)
    monkeypatch.undo()
    posing.forget()
    close(got, gradients())


@pytest.mark.posed
@pytest.mark.parametrize(
    "dtype, eps", [(torch.float64, 2.0**-52), (torch.bfloat16, 2.0**-7), (torch.float16, 2.0**-10)]
)
def test_dtypes(dtype: torch.dtype, eps: float, generator: posing.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = cases("lstm")
    module, x = module.to(dtype), x.to(dtype)
    got = answers(module, x, tuple(torch.rand(1, B, H).to(dtype) for _ in range(2)))
    torch.manual_seed(0)
    monkeypatch.undo()
    posing.forget()
    module, x = cases("lstm")
    module, x = module.to(dtype), x.to(dtype)
    close(got, answers(module, x, tuple(torch.rand(1, B, H).to(dtype) for _ in range(2))), eps)


@pytest.mark.posed
@pytest.mark.parametrize("where", ["host", "device"])
def test_marks(where: str, generator: posing.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = cases("gru")
    mask, reset = torch.rand(B, T) < 0.7, torch.rand(B, T) < 0.4
    put = (lambda marks: marks.numpy()) if where == "host" else (lambda marks: marks)
    got = answers(module, x, mask=put(mask), reset=put(reset), lengths=[5, 2, 4])
    monkeypatch.undo()
    posing.forget()
    close(got, answers(module, x, mask=mask, reset=reset, lengths=[5, 2, 4]))


@pytest.mark.posed
def test_packed_sequences(generator: posing.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    module, _ = cases("gru")
    rows = [torch.rand(length, IN) for length in (2, 5, 3)]
    fake_cuda.log.clear()
    y, h = module(pack_sequence(rows, enforce_sorted=False))
    assert fake_cuda.log.count("upload") == 1  # the lengths, which its sizes on the host say
    monkeypatch.undo()
    posing.forget()
    want, h_want = module(pack_sequence(rows, enforce_sorted=False))
    close([y.data, h], [want.data, h_want])


@pytest.mark.posed
def test_operators_and_graphs(generator: posing.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """What looks on sees an operator, whose kernels of a GPU are the same."""
    module, x = cases("lstm")
    plain, rows = answers(module, x, lengths=torch.tensor([5, 0, 3])), torch.tensor([5, 0, 3])
    from torch.utils._python_dispatch import TorchDispatchMode

    class Seen(TorchDispatchMode):
        names: list[str] = []  # noqa: RUF012

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    with Seen() as seen:
        watched = answers(module, x, lengths=rows)
    assert "rnnkern.layer_train.default" in seen.names
    close(watched, plain)
    per_row = torch.func.vmap(lambda one: module(one)[0], in_dims=1, out_dims=1)(x[:, :, None])
    assert torch.equal(per_row.squeeze(2), module(x)[0])


@pytest.mark.posed
def test_second_derivatives_take_lengths_as_they_are(generator: posing.Generator) -> None:
    module, x = cases("lstm")
    module, x = module.double(), x.double().requires_grad_()
    y = module(x, lengths=torch.tensor([5, 2, 3]))[0]
    (dx,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    (again,) = torch.autograd.grad(dx.square().sum(), x)
    assert bool(again.isfinite().all()) and bool((again[3:, 1] == 0).all()) and bool((again[:2, 1] != 0).any())


@pytest.mark.posed
def test_random_masks_follow_the_generator(generator: posing.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    module = rt.LSTM(IN, H, num_layers=2, dropout=0.5)
    x = torch.rand(T, B, IN)
    generator.offset = 40
    first = answers(module, x)
    assert generator.offset == 44  # one call: the backward pass draws nothing
    second = answers(module, x)
    generator.offset = 40
    close(answers(module, x), first)
    assert not torch.equal(first[0], second[0])
    module.eval()
    answers(module, x)
    assert generator.offset == 44
    generator.offset = 4 * (2**32 + 10)  # the call has 32 bits; the seed takes the rest
    assert gpu.draw(0).tolist() == [6, 10]
    monkeypatch.undo()
    posing.forget()
    plain = rk.LSTM(IN, H, num_layers=2, dropout=0.5, seed=5)
    plain.load_state_dict({name: p.detach() for name, p in module.named_parameters()})
    plain.call = 10
    close(first[0], torch.from_numpy(plain.forward(x.numpy())[0].copy()))


@pytest.mark.posed
def test_while_a_graph_is_captured(generator: posing.Generator) -> None:
    module, x = rt.GRU(IN, H, num_layers=2, dropout=0.5), torch.rand(T, B, IN)
    fake_cuda.capturing[:] = [True]
    with pytest.raises(RuntimeError, match=r"every replay of a CUDA graph would use the same masks"):
        module(x)
    assert generator.offset == 0
    with pytest.raises(RuntimeError, match=r"every replay"):  # drawn outside of the capture, used inside of it
        torch.ops.rnnkern.layer(x, None, None, list(module._weights()), None, torch.tensor([1, 2]), *module._options())
    module.eval()
    module(x, lengths=torch.tensor([1, 2, 3]))
    with pytest.raises(RuntimeError, match=r"lengths: expected a tensor on cuda:0 while a CUDA graph is captured"):
        module(x, lengths=[1, 2, 3])


@pytest.mark.posed
def test_tf32_is_torchs_switch(generator: posing.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = cases("lstm")
    for allowed in (True, False):
        with torch.backends.cudnn.flags(allow_tf32=allowed):
            assert module._check_weights(module._weights(), module._options())[1].allow_tf32 is allowed
            module(x)
    assert not kernels.spec_of(module._options(), torch.bfloat16, IN, H, True, "cuda:0").allow_tf32


@pytest.mark.posed
def test_freeze_waits_and_keeps_its_memory(generator: posing.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = cases("gru")
    used: list[Tensor] = []
    monkeypatch.setattr(gpu, "in_use", used.append)
    want = module(x)
    fake_cuda.log.clear()
    module.freeze()
    assert fake_cuda.log == ["synchronize"] and len(module._frozen.blocks) == 1
    with torch.no_grad():
        close(module(x), want)
    assert len(used) == 1


@pytest.mark.posed
def test_bad_arguments(generator: posing.Generator) -> None:
    module, x = cases("lstm")
    with pytest.raises(TypeError, match=r"lengths: expected integers, got dtype torch.float32"):
        module(x, lengths=torch.ones(B))
    with pytest.raises(ValueError, match=r"lengths: expected shape \[B\] = \[3\], got \[2\]"):
        module(x, lengths=torch.tensor([1, 2]))
    with pytest.raises(ValueError, match=r"lengths\[1\]: expected 0 <= length <= T = 5, got 9"):
        module(x, lengths=[1, 9, 2])
    module(x, lengths=torch.tensor([1, 9, 2]))
    with pytest.raises(ValueError, match="length"):
        rk.check()


def test_what_is_not_there_is_refused_by_name() -> None:
    """A tensor of shapes alone can be on any device, also without a GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        elsewhere = torch.empty(T, B, IN, device="xpu")
    with pytest.raises(
        NotImplementedError, match=r"input: expected a tensor on the CPU or a GPU of CUDA, got one on xpu"
    ):
        rt.LSTM(IN, H)(elsewhere)
    if _core.device_count() == 0:
        with FakeTensorMode():
            elsewhere = torch.empty(T, B, IN, device="cuda")
        with pytest.raises(NotImplementedError, match=r"input: expected a tensor on the CPU, got one on cuda:0: "):
            rt.LSTM(IN, H)(elsewhere)


# On a GPU ------------------------------------------------------------------------------------------------------------


def on_gpu(*marks: Any) -> Any:
    def mark(test: Any) -> Any:
        for each in (*real, *marks):
            test = each(test)
        return test

    return mark


@on_gpu(pytest.mark.parametrize("dtype, eps", [(torch.float32, 2.0**-23), (torch.float64, 2.0**-52), (torch.bfloat16, 2.0**-7), (torch.float16, 2.0**-10)]))  # fmt: skip  # noqa: E501
@on_gpu(pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"]))
def test_real_parity_with_torch(kind: str, dtype: torch.dtype, eps: float) -> None:
    torch.manual_seed(0)
    theirs = getattr(torch.nn, kind)(IN, H, num_layers=2, bidirectional=True).to("cuda", dtype)
    ours = copy.deepcopy(theirs)
    assert rt.replace(torch.nn.ModuleList([ours])).swapped
    x = torch.rand(T, B, IN, device="cuda", dtype=dtype)
    with torch.backends.cudnn.flags(allow_tf32=False):
        close(answers(ours, x), answers(theirs, x), eps)


@on_gpu()
def test_real_moves_autocast_and_devices() -> None:
    module, x = cases("lstm")
    want = answers(module, x)
    module.to("cuda")
    close(answers(module, x.cuda()), want)
    with pytest.raises(RuntimeError, match="not at the same device"):
        module(x)
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype):
            assert module(x.cuda())[0].dtype == dtype
    close(answers(module.to("cpu"), x), want)


@on_gpu()
def test_real_calls_wait_for_nothing() -> None:
    module, x = cases("gru")
    module, x = module.cuda().train(), x.cuda()
    rows = [torch.rand(length, IN, device="cuda") for length in (2, 5, 3)]
    packed = pack_sequence(rows, enforce_sorted=False)
    answers(module, x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for lengths in (None, torch.tensor([1, 2, 3], device="cuda"), [3, 2, 1]):
            y, h = module(x, lengths=lengths)
            torch.autograd.grad(y.sum() + h.sum(), list(module.parameters()))
        module(packed)
        rt.LSTM(IN, H, num_layers=2, dropout=0.5, device="cuda")(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@on_gpu()
def test_real_graphs_and_streams() -> None:
    module, x = cases("lstm")
    module, x = module.cuda().eval(), x.cuda()
    with torch.no_grad():
        want = module(x)[0]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            assert torch.equal(module(x)[0], want)
        torch.cuda.current_stream().wait_stream(side)
        graph, still = torch.cuda.CUDAGraph(), x.clone()
        with torch.cuda.graph(graph):
            y = module(still)[0]
        for scale in (1.0, -0.5):
            still.copy_(x * scale)
            module.weight_hh_l0.mul_(0.5)  # packed anew at every replay
            graph.replay()
            assert torch.equal(y, module(still)[0])
        module.train()
        stack = rt.LSTM(IN, H, num_layers=2, dropout=0.5, device="cuda")
        with pytest.raises(RuntimeError, match="every replay"), torch.cuda.graph(torch.cuda.CUDAGraph()):
            stack(still)


@on_gpu()
def test_real_masks_follow_torchs_generator() -> None:
    module = rt.LSTM(IN, H, num_layers=2, dropout=0.5, device="cuda")
    x = torch.rand(T, B, IN, device="cuda")
    torch.cuda.manual_seed(3)
    first, second = module(x)[0], module(x)[0]
    torch.cuda.manual_seed(3)
    assert torch.equal(module(x)[0], first) and not torch.equal(first, second)


@on_gpu()
def test_real_plain_layers_on_tensors() -> None:
    """A plain layer's answers are tensors, also where its parameters are CuPy's."""
    cpu, there = rk.LSTM(IN, H, seed=1, layer_norm=True), rk.LSTM(IN, H, seed=1, layer_norm=True, device="cuda")
    x = torch.rand(T, B, IN)
    y, _, tape = there.forward(x.cuda(), lengths=torch.tensor([5, 0, 3], device="cuda"))
    want, _, kept = cpu.forward(x.numpy(), lengths=[5, 0, 3])
    assert y.is_cuda
    close(y, torch.from_numpy(want.copy()))
    close(there.backward(tape, y).x, torch.from_numpy(cpu.backward(kept, want).x))
    there.update({name: torch.from_numpy(p * 2).cuda() for name, p in cpu.params.items()})
    for name, value in there.state_dict().items():
        assert np.array_equal(value, cpu.params[name] * 2)
