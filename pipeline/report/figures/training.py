"""Training curves: the loss of every trained adapter by step."""

import math
from pathlib import Path

import polars as pl

from pipeline.report.figures.look import figure, style

COLUMNS = 4
LINES = ("-", "--", ":", "-.")


def training_curves(
    folder: Path, histories: dict[str, dict[int, pl.DataFrame]], caption: str
) -> None:
    """Draw a panel per method: thin on training batches, dots on the calibration pairs, a line
    style per seed.
    """
    rows = math.ceil(len(histories) / COLUMNS)
    said = f"{caption}. The most extreme 1.5 % of losses lie outside of the panels."
    with figure(folder, "training", said, 0.8 + 1.6 * rows) as drawing:
        panels = list(drawing.subplots(rows, min(len(histories), COLUMNS), squeeze=False).flat)
        for unused in panels[len(histories) :]:
            unused.set_visible(False)
        for axes, (method, seeds) in zip(panels, histories.items(), strict=False):
            look = style(method)
            for place, (seed, history) in enumerate(seeds.items()):
                train, held = (
                    history.filter(pl.col("split") == split) for split in ("train", "calibration")
                )
                line = {"color": look["color"], "ls": LINES[place % len(LINES)]}
                axes.plot(train["step"], train["loss"], lw=0.4, alpha=0.4, color=look["color"])
                axes.plot(
                    held["step"],
                    held["loss"],
                    lw=1,
                    marker=look["marker"],
                    ms=2.5,
                    label=f"seed {seed}",
                    **line,
                )
            axes.set_ylim(*window(pl.concat(seeds.values())["loss"]))
            axes.set_title(look["label"], color=look["color"])
            axes.set_xlabel("step")
            axes.legend()
        panels[0].set_ylabel("loss")


def window(losses: pl.Series) -> tuple[float, float]:
    """Return limits that show all but the wildest hundredth of single batches."""
    low, high = (float(losses.quantile(q, "linear") or 0.0) for q in (0.005, 0.99))
    return low - 0.05 * (high - low), high + 0.05 * (high - low)
