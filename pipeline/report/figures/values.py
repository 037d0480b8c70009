"""Heat map: how far every method moves every value."""

from pathlib import Path

import polars as pl
from matplotlib.colors import SymLogNorm

from pipeline.report.figures.look import figure, methods_of
from pipeline.report.figures.words import name_of, short_labels
from pipeline.support.formats import with_minus

TICKS = (-1, -0.1, -0.02, 0, 0.02, 0.1, 1)


def value_map(
    folder: Path, halves: pl.DataFrame, labels: list[str], coefficient: float, caption: str
) -> None:
    """Draw half the change between +c and -c of every value; a dot marks a significant one.

    `halves` comes from `drawn.value_halves`; `labels` gives the order of rows, the target on top.
    """
    methods, cells = (
        methods_of(halves),
        halves.rows_by_key(["method", "label"], named=True, unique=True),
    )
    rows = [[cells[method, label] for method in methods] for label in labels]
    said = (
        f"{caption}. Dots: q < 0.05 (Benjamini-Hochberg, without the target, which stands on top, "
        "and its opposite). Items in brackets."
    )
    with figure(folder, "value_map", said, 1.4 + 0.17 * len(labels)) as drawing:
        axes = drawing.subplots()
        # Linear up to 0.02, logarithmic beyond: a prompt's changes would else leave all others
        # white.
        changes = [[cell["half"] for cell in row] for row in rows]
        norm = SymLogNorm(0.02, vmin=-1, vmax=1)
        shade = axes.imshow(changes, aspect="auto", cmap="RdBu_r", norm=norm)
        for y, row in enumerate(rows):
            for x, cell in enumerate(row):
                if cell["significant"]:
                    dark = abs(cell["half"]) > 0.2
                    axes.plot([x], [y], ".", ms=3, color="white" if dark else "black")
        axes.set_xticks(range(len(methods)), map(name_of, methods), rotation=35, ha="right")
        words = short_labels(labels)
        named = [
            f"{words[label]} ({row[0]['n_items']})" for label, row in zip(labels, rows, strict=True)
        ]
        axes.set_yticks(range(len(labels)), named)
        axes.get_yticklabels()[0].set_fontweight("bold")
        axes.axhline(0.5, color="black", lw=1)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        bar = drawing.colorbar(shade, ax=axes, shrink=0.6)
        bar.set_ticks(TICKS, labels=[with_minus(f"{tick:g}") for tick in TICKS])
        bar.set_label(f"half the change from −{coefficient:g} to +{coefficient:g}")
