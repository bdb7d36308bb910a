"""Published forecasting models on real data, unchanged but for ``replace``: the same losses, step by step.

The models are neuralforecast's, the data its air passengers (1949-1960). It brings much with it, so the tests run where
it is installed (``pip install neuralforecast``).
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

import rnnkern.torch as rt

pytest.importorskip("neuralforecast", reason="neuralforecast is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

STEPS = 40


def losses(name: str, swap: bool) -> tuple[Any, Any, tuple[str, ...]]:
    """The loss of every training step; the forecast of the next year; what was swapped."""
    from neuralforecast import NeuralForecast, models
    from neuralforecast.losses.pytorch import MSE
    from neuralforecast.utils import AirPassengersDF

    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    options: dict[str, Any] = {"encoder_hidden_size": 32, "encoder_n_layers": 2, "loss": MSE()}
    if name == "DeepAR":  # without dropout, whose masks are each library's own
        options = {"lstm_hidden_size": 32, "lstm_n_layers": 2, "lstm_dropout": 0.0}
    model = getattr(models, name)(
        h=12, input_size=36, max_steps=STEPS, random_seed=1, scaler_type="standard", learning_rate=1e-3, logger=False,
        enable_progress_bar=False, enable_checkpointing=False, enable_model_summary=False, accelerator="cpu", **options,
    )  # fmt: skip
    swapped = rt.replace(model).swapped if swap else ()
    forecaster = NeuralForecast(models=[model], freq="ME")
    forecaster.fit(AirPassengersDF)
    forecast = forecaster.predict().iloc[:, -1].to_numpy()
    return np.array([float(loss) for _, loss in forecaster.models[0].train_trajectories]), forecast, swapped


@pytest.mark.parametrize("name", ["LSTM", "GRU", "RNN", "DeepAR"])
def test_losses_are_equal(name: str) -> None:
    wanted, forecast, _ = losses(name, swap=False)
    got, own, swapped = losses(name, swap=True)
    assert swapped == ("hist_encoder",)
    assert len(got) == STEPS and wanted[-1] < wanted[0]
    # Roundings of float32, grown over forty steps of Adam; the Elman network's grow most.
    bound = 1e-3 if name == "RNN" else 1e-5
    assert np.abs(got / wanted - 1).max() < bound
    assert np.abs(own / forecast - 1).max() < bound
