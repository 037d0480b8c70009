"""Heat map: how far every method moves every value."""

from pathlib import Path

import numpy as np
import polars as pl
from matplotlib.colors import SymLogNorm

from pipeline.report.figures.look import figure, methods_of
from pipeline.report.figures.rendering import with_minus
from pipeline.report.figures.words import name_of
from pipeline.report.tables import half_changes, short_labels

SIGNIFICANT = 0.05
TICKS = (-1, -0.1, -0.02, 0, 0.02, 0.1, 1)


def value_map(
    folder: Path, values: pl.DataFrame, target: str, coefficient: float, caption: str
) -> None:
    """Draw half the change between +c and -c of every value; a dot where q < 0.05, the target on
    top.
    """
    methods, halves = methods_of(values), half_changes(values, coefficient)
    mean = (
        halves.group_by("label")
        .agg(pl.col("half").abs().mean())
        .sort("half", "label", descending=[True, False])
    )
    names = [target, *(label for label in mean["label"] if label != target)]
    cell = {(row["method"], row["label"]): row for row in halves.to_dicts()}
    change = np.array([[cell[method, name]["half"] for method in methods] for name in names])
    said = (
        f"{caption}. Dots: q < {SIGNIFICANT:g} (Benjamini-Hochberg, without the target, which "
        "stands on top, "
        "and its opposite). Items in brackets."
    )
    with figure(folder, "value_map", said, 1.4 + 0.17 * len(names)) as drawing:
        axes = drawing.subplots()
        # Linear up to 0.02, logarithmic beyond: a prompt's changes would else leave all others
        # white.
        shade = axes.imshow(
            change, aspect="auto", cmap="RdBu_r", norm=SymLogNorm(0.02, vmin=-1, vmax=1)
        )
        for y, name in enumerate(names):
            for x, method in enumerate(methods):
                q = cell[method, name]["q"]
                if q is not None and q < SIGNIFICANT:
                    dark = abs(change[y, x]) > 0.2
                    axes.plot([x], [y], ".", ms=3, color="white" if dark else "black")
        axes.set_xticks(
            range(len(methods)), [name_of(method) for method in methods], rotation=35, ha="right"
        )
        items = {row["label"]: row["n_items"] for row in halves.to_dicts()}
        words = short_labels(names)
        axes.set_yticks(range(len(names)), [f"{words[name]} ({items[name]})" for name in names])
        axes.get_yticklabels()[0].set_fontweight("bold")
        axes.axhline(0.5, color="black", lw=1)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = drawing.colorbar(shade, ax=axes, shrink=0.6)
        bar.set_ticks(TICKS, labels=[with_minus(f"{tick:g}") for tick in TICKS])
        bar.set_label(f"half the change from −{coefficient:g} to +{coefficient:g}")
