"""Published models before and after ``rnnkern.torch.replace``: `python -m bench.models` (from a checkout).

Each model comes from its package, with its own weights where the package has them. A line says whether outputs and
losses are equal within 2e-5 of the largest, and torch's time over rnnkern's of the whole model, in alternating blocks.
A package that is not installed is left out by name: resemblyzer, BeatNet, torchrl, sb3-contrib, speechbrain (with
torchaudio), silero-vad.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import rnnkern.torch as rt

from .timing import ratio

Case = tuple[str, Callable[[], Any], Callable[[], Any]]  # what is timed; torch's and rnnkern's, which return tensors


def pair(model: torch.nn.Module) -> tuple[Any, Any]:
    ours = copy.deepcopy(model)
    report = rt.replace(ours)
    print(f"  {report}".replace("\n", "\n  "))
    return model, ours


def inference(run: Callable[[Any], Any], models: tuple[Any, Any], what: str = "inference") -> Case:
    def call(model: Any) -> Callable[[], Any]:
        def timed() -> Any:
            with torch.no_grad():
                return run(model)

        return timed

    return what, call(models[0]), call(models[1])


def training(run: Callable[[Any], torch.Tensor], models: tuple[Any, Any]) -> Case:
    def call(model: Any) -> Callable[[], Any]:
        def timed() -> Any:
            model.zero_grad()
            loss = run(model)
            loss.backward()
            return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]

        return timed

    return "training", call(models[0]), call(models[1])


def _call(x: torch.Tensor, model: Any) -> Any:
    return model(x)


# --- the models -------------------------------------------------------------


def resemblyzer() -> Iterator[Case]:
    """The speaker encoder: an LSTM of three layers on partial utterances [B, 160, 40]."""
    models = pair(importlib.import_module("resemblyzer").VoiceEncoder("cpu", verbose=False))
    for batch in (1, 16):
        mels = torch.rand(batch, 160, 40)
        yield inference(partial(_call, mels), models, f"inference, B = {batch}")
    yield training(lambda model: model(mels)[:, ::2].sum(), models)


def beatnet() -> Iterator[Case]:
    """The streaming beat tracker: one frame a call, an LSTM of two layers whose state the model keeps."""
    module = importlib.import_module("BeatNet.model")
    model = module.BDA(272, 150, 2, "cpu")
    weights = Path(str(module.__file__)).parent / "models" / "model_1_weights.pt"
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=False)
    for steps in (1, 100):
        frames = torch.rand(1, steps, 272)

        def run(model: Any, frames: Any = frames) -> Any:
            model.hidden, model.cell = torch.zeros(2, 1, 150), torch.zeros(2, 1, 150)
            return model(frames)

        yield inference(run, pair(model.eval()), f"inference, {steps} frames a call")


def torchrl() -> Iterator[Case]:
    """LSTMModule on trajectories that begin inside of the sequence: by replace alone, and by one call with reset=."""
    tensordict, modules = importlib.import_module("tensordict"), importlib.import_module("torchrl.modules")
    batch, steps, inputs, hidden = 32, 64, 32, 128
    model = modules.LSTMModule(inputs, hidden, in_keys=["x", "h", "c"], out_keys=["y", "h_n", "c_n"])
    zeros = torch.zeros(batch, steps, 1, hidden)
    x, is_init = torch.randn(batch, steps, inputs), torch.rand(batch, steps, 1) < 0.05
    data = tensordict.TensorDict({"x": x, "is_init": is_init, "h": zeros, "c": zeros}, [batch, steps])

    def run(model: Any) -> torch.Tensor:
        with modules.set_recurrent_mode(True):
            return model(data.clone())["y"].square().sum()  # type: ignore[no-any-return]

    models = pair(model)
    yield training(run, models)

    def cut(model: Any) -> torch.Tensor:
        lstm = model.lstm
        if not isinstance(lstm, rt.LSTM):
            return run(model)
        return lstm(x, reset=is_init[..., 0])[0].square().sum()  # type: ignore[no-any-return]

    _, theirs, ours = training(cut, models)
    yield "training, reset=", theirs, ours


def sb3() -> Iterator[Case]:
    """RecurrentPPO on CartPole: the loss of a batch of sequences, and a step of the policy."""
    from gymnasium import make

    policy = importlib.import_module("sb3_contrib").RecurrentPPO("MlpLstmPolicy", make("CartPole-v1"), seed=0).policy
    states = importlib.import_module("sb3_contrib.common.recurrent.type_aliases").RNNStates
    steps, batch, (layers, _, hidden) = 128, 8, policy.lstm_hidden_state_shape
    observed, begins = torch.randn(steps * batch, 4), (torch.rand(steps * batch) < 0.05).float()
    actions = torch.randint(0, 2, (steps * batch,))

    def state(rows: int) -> Any:
        zeros = torch.zeros(layers, rows, hidden)
        return states((zeros, zeros), (zeros, zeros))

    models = pair(policy)
    yield inference(
        lambda model: model.predict_values(observed[:1], state(1).vf, begins[:1]), models, "inference, one step"
    )

    def loss(model: Any) -> torch.Tensor:
        values, log_prob, entropy = model.evaluate_actions(observed, actions, state(batch), begins)
        return values.square().mean() - log_prob.mean() - entropy.mean()  # type: ignore[no-any-return]

    yield training(loss, models)


def speechbrain() -> Iterator[Case]:
    """The attention decoder: cells in a loop over 30 symbols, with teacher forcing."""
    module = importlib.import_module("speechbrain.nnet.RNN")
    encoded, lengths, symbols = torch.rand(8, 100, 256), torch.ones(8), torch.rand(8, 30, 128)
    for kind in ("lstm", "gru"):
        models = pair(
            module.AttentionalRNNDecoder(kind, "location", 512, 256, 1, 256, 128, channels=10, kernel_size=100)
        )

        def run(model: Any) -> torch.Tensor:
            return model(symbols, encoded, lengths)[0].square().sum()  # type: ignore[no-any-return]

        for what, theirs, ours in (inference(run, models), training(run, models)):
            yield f"{what}, {kind}", theirs, ours


def silero() -> Iterator[Case]:
    """The voice detector ships compiled by torch.jit: replace says that it leaves the cell."""
    model = importlib.import_module("silero_vad").load_silero_vad()
    print(f"  {rt.replace(model)}".replace("\n", "\n  "))
    yield from ()


MODELS = (resemblyzer, beatnet, torchrl, sb3, speechbrain, silero)


def tensors(value: Any) -> list[torch.Tensor]:
    return [value] if isinstance(value, torch.Tensor) else [leaf for part in value for leaf in tensors(part)]


def worst(one: Any, other: Any) -> float:
    """The largest difference, relative to the largest entry of its tensor."""
    pairs = zip(tensors(one), tensors(other), strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-30)) for a, b in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", choices=[[], *(model.__name__ for model in MODELS)], help="default: all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--seconds", type=float, default=0.2, help="of a block")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    for model in MODELS:
        if args.models and model.__name__ not in args.models:
            continue
        torch.manual_seed(0)
        print(f"{model.__name__}: {model.__doc__}")
        try:
            for what, theirs, ours in model():
                difference = worst(ours(), theirs())
                equal = "equal" if difference <= 2e-5 else f"DIFFER by {difference:.1e}"
                begin = time.perf_counter()
                ours()
                milliseconds = 1e3 * (time.perf_counter() - begin)
                print(f"  {what}: {equal}, {ratio(theirs, ours, args.seconds):.2f}x, {milliseconds:.2f} ms", flush=True)
        except ModuleNotFoundError as error:
            print(f"  left out: {error}")


if __name__ == "__main__":
    main()
