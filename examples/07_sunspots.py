"""Two time series: a recurrent network against a fully connected one with as many parameters.

Both see the last 24 values of a series (two cycles of the sun, two years of CO2) and forecast the next one:

    recurrent          h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)    forecast of x_{t+1} = v . h_t + b
    fully connected    h = tanh(W [x_1 ; .. ; x_24] + c)                    forecast of x_25 = v . h + b

The recurrent one has the same weights at every step, so one window teaches it many times. Its class stands here as
tutorials write it for torch.nn; rnnkern.torch.replace puts rnnkern's kernels into it.

Data: statsmodels' yearly sunspots and monthly CO2 at Mauna Loa, public domain; the last quarter of each is held out.
Reached (RMS): sunspots 17.8, fully connected 24.7, persistence 31.8; CO2 0.33, 0.30 and 1.28 ppm; 6 seconds. CO2 is a
regular season, where the two are equal within what the seed changes; the sun's cycle is not regular.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from shared import figure, finish, keep_on_interrupt, load, package, progress, save, start

torch, rt, datasets = package("torch"), package("rnnkern.torch"), package("statsmodels.datasets")
nn = torch.nn
Array, WINDOW, BATCH, HIDDEN = np.ndarray, 24, 32, 16


class RNN(nn.Module):
    def __init__(self, x_size: int, hidden_size: int, n_layers: int) -> None:
        super().__init__()
        self.rnn = nn.RNN(x_size, hidden_size, n_layers, batch_first=True)
        self.linear = nn.Linear(hidden_size, x_size)

    def forward(self, x: Any) -> Any:
        y, _ = self.rnn(x)
        return self.linear(y)  # [B, T, x_size]: a forecast after every step


def build(config: dict[str, Any]) -> dict[str, Any]:
    """Both networks for each series."""
    parts = {}
    for name in config["series"]:
        parts[f"{name}, recurrent"] = recurrent = RNN(1, HIDDEN, n_layers=1)
        rt.replace(recurrent)
        width = round((sum(p.numel() for p in recurrent.parameters()) - 1) / (WINDOW + 2))
        layers = nn.Flatten(), nn.Linear(WINDOW, width), nn.Tanh(), nn.Linear(width, 1), nn.Unflatten(1, (1, 1))
        parts[f"{name}, fully connected"] = nn.Sequential(*layers)  # [B, WINDOW, 1] -> [B, 1, 1]
    return parts


class Series(NamedTuple):
    times: Array
    values: Array
    seen: Array  # [N] by the networks, after scaling
    restore: Callable[[Array, Array], Array]  # what is seen of a value, and the value before it -> the value
    unit: str


def read() -> dict[str, Series]:
    """The networks see the square root of sunspots (large counts scatter more), and changes of CO2 (it only grows)."""
    sun, co2 = (getattr(datasets, name).load_pandas().data for name in ("sunspots", "co2"))
    years, spots, co2 = np.array(sun["YEAR"]), np.array(sun["SUNACTIVITY"]), co2.resample("MS").mean().interpolate()
    months, ppm = np.array(co2.index.year + co2.index.month / 12), np.array(co2["co2"])
    change = np.diff(ppm, prepend=ppm[0])
    return {
        "sunspots": Series(years, spots, np.sqrt(spots), lambda root, _: np.maximum(root, 0) ** 2, "spots"),
        "CO2": Series(months, ppm, change, lambda change, before: before + change, "ppm"),
    }


def main() -> None:
    args, series, reached = start(__doc__), read(), {}
    steps, config = 300 if args.quick else 1000, {"series": list(series)}
    torch.manual_seed(args.seed)
    parts, windows, past = build(config), {}, {}
    for name, it in series.items():
        past[name] = len(it.values) * 3 // 4
        known = it.seen[: past[name]]
        scaled = torch.tensor((it.seen - known.mean()) / known.std(), dtype=torch.float32)
        windows[name] = scaled.unfold(0, WINDOW + 1, 1)[..., None]
    report = progress(args, steps * len(parts))
    with keep_on_interrupt(lambda: save(args, parts, config)):
        for name, model in parts.items():
            known = windows[name.partition(",")[0]][: past[name.partition(",")[0]] - WINDOW]
            optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
            schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
            for _ in range(steps):
                window = known[torch.randint(len(known), (BATCH,))]
                forecast = model(window[:, :-1])[:, -WINDOW // 2 :]  # the steps that have seen half a window
                loss = nn.functional.mse_loss(forecast, window[:, -forecast.shape[1] :])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                next(report)(loss.item())
    parts = load(args, save(args, parts, config), build)

    with figure(args, 1, 2, (11, 8)) as both, torch.no_grad():
        for axes, (name, it) in zip(both, series.items(), strict=True):
            first, known, test = past[name], windows[name][: past[name] - WINDOW], windows[name][past[name] - WINDOW :]
            x = [np.c_[some[:, :-1, 0], np.ones(len(some))] for some in (known, test)]
            kinds = "recurrent", "fully connected"
            scaled = {kind: parts[f"{name}, {kind}"](test[:, :-1])[:, -1, 0].numpy() for kind in kinds}
            scaled["linear"] = x[1] @ np.linalg.lstsq(x[0], known[:, -1, 0].numpy(), rcond=None)[0]
            past_values, before = it.seen[:first], it.values[first - 1 : -1]
            found = {kind: it.restore(z * past_values.std() + past_values.mean(), before) for kind, z in scaled.items()}
            axes.plot(it.times[first:], it.values[first:], "k.-", label="measured")
            errors = reached[f"{name}: {it.unit} off (RMS)"] = {}
            for kind, forecast in (found | {"persistence": before}).items():
                off = errors[kind] = np.sqrt(np.mean((forecast - it.values[first:]) ** 2))
                if kind in kinds:
                    axes.plot(it.times[first:], forecast, label=f"{kind}: {off:.3g} {it.unit} off")
            axes.set(title=f"{name}: each value forecast from the {WINDOW} before it", ylabel=it.unit)
            axes.legend()
    finish(args, reached)


if __name__ == "__main__":
    main()
