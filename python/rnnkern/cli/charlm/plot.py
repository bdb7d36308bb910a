"""The loss of a training run as a PNG, drawn by matplotlib without a display."""

from __future__ import annotations

from pathlib import Path

from .loop import History, smoothed


def plot_loss(history: History, path: Path, title: str) -> None:
    """Training loss of every step (faint), its moving average, and the held-out losses, over seconds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Figure and canvas by hand rather than pyplot: no global state, no choice of backend to disturb.
    figure = Figure(figsize=(7.5, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(history.seconds, history.loss, color="tab:blue", alpha=0.25, linewidth=0.8)
    axes.plot(history.seconds, smoothed(history.loss), color="tab:blue", label="training loss (moving average)")
    if history.held_out:
        seconds, nats = zip(*history.held_out, strict=True)
        axes.plot(seconds, nats, "o-", color="tab:red", markersize=4, label=f"held-out loss (best {min(nats):.3f})")
    axes.set(xlabel="training time in seconds", ylabel="loss in nats per character", title=title)
    axes.grid(alpha=0.3)
    axes.legend()
    FigureCanvasAgg(figure).print_png(str(path))
