"""Calibration of the choice mass: does the model still answer, and how many items fall below the
gate?
"""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from pipeline.report.figures.look import figure, legend, methods_of, style
from pipeline.report.figures.rendering import with_minus
from pipeline.support.schemas import MEAN


def choice_mass(
    folder: Path, effects: pl.DataFrame, gate: float, n_items: int, caption: str
) -> None:
    """Draw the mean probability on the answer words by dose, and count the items with less than the
    gate.

    `effects` may end with rows of the equal-cost dose; it needs method, seed, coefficient,
    choice_mass and answered (a share).
    """
    rows = effects.filter(pl.col("seed") == MEAN).sort("coefficient")
    methods = methods_of(rows)
    said = f"{caption}. Counts are of the mean over seeds; ·: a dose that the method does not have."
    with figure(folder, "choice_mass", said, 1.9 + 0.22 * len(methods)) as drawing:
        left, right = drawing.subplots(1, 2, width_ratios=(1, 1))
        for method in methods:
            own = rows.filter(pl.col("method") == method)
            # A mass of one has no place on this axis; float32 cannot tell it from 1 - 1e-7 either.
            left.plot(
                own["coefficient"],
                own["choice_mass"].clip(1e-4, 1 - 1e-6),
                **{"ls": "-"} | style(method) | {"lw": 1, "ms": 4},
            )
        left.axhline(gate, color="black", lw=0.8, ls=":", label=f"gate: {gate:g}")
        left.set_yscale("logit")
        left.set_ylim(bottom=min(0.3, gate / 2, float(rows["choice_mass"].to_numpy().min())))
        ticks = [
            tick
            for tick in (0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
            if tick >= left.get_ylim()[0]
        ]
        left.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        left.minorticks_off()
        left.set_xlabel("coefficient c")
        left.set_ylabel("mean probability on the answer words")
        excluded_counts(right, rows, methods, n_items)
        legend(drawing, left)


def excluded_counts(axes: Any, rows: pl.DataFrame, methods: list[str], n_items: int) -> None:
    """Print how many of the items are below the gate, by method and coefficient."""
    doses = sorted(rows["coefficient"].unique())
    share = {(row["method"], row["coefficient"]): 1 - row["answered"] for row in rows.to_dicts()}
    table = np.array([[share.get((method, dose), np.nan) for dose in doses] for method in methods])
    axes.imshow(table, aspect="auto", cmap="Greys", vmin=0, vmax=1)
    for y in range(len(methods)):
        for x in range(len(doses)):
            text = "·" if np.isnan(table[y, x]) else str(round(table[y, x] * n_items))
            axes.text(
                x,
                y,
                text,
                ha="center",
                va="center",
                fontsize=6.5,
                color="white" if table[y, x] > 0.5 else "black",
            )
    axes.set_xticks(range(len(doses)), [with_minus(f"{dose:+g}") for dose in doses])
    axes.set_yticks(range(len(methods)), [style(method)["label"] for method in methods])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("coefficient c")
    axes.set_title(f"items of {n_items} below the gate")
