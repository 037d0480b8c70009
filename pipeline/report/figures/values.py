"""Heat map: how far every method moves every value."""

from typing import Any

import polars as pl
from matplotlib.colors import SymLogNorm

from pipeline.report.figures.look import Measure, Sheet, halves, methods_of
from pipeline.report.figures.words import name_of, short_labels
from pipeline.support.formats import with_minus

BESIDE = 16  # methods: with more, the halves stand one above the other, and the names upright
# Linear up to the first number, logarithmic up to the second: a prompt's changes would else leave
# all others white.
SCALES = {False: (0.02, 1.0), True: (0.1, 10.0)}


def value_map(sheet: Sheet, changes: pl.DataFrame, labels: list[str], coefficient: float) -> None:
    """Draw half the change between +c and -c of every value; a dot marks a significant one.

    `changes` comes from `drawn.value_halves`; `labels` gives the order of rows, the target on top.
    """
    said = (
        f"Half the change from −{coefficient:g} to +{coefficient:g}. Dots: q < 0.05 "
        "(Benjamini-Hochberg, without the target, which stands on top, and its opposite). Items in "
        "brackets."
    )
    beside, height = len(methods_of(changes)) <= BESIDE, 1.4 + 0.17 * len(labels)
    with halves(sheet, "value_map", said, height + (not beside), beside) as parts:
        for part, measure in parts:
            draw(part, measure, measure.of(changes), labels)


def draw(drawing: Any, measure: Measure, changes: pl.DataFrame, labels: list[str]) -> None:
    methods = methods_of(changes)
    cells = changes.rows_by_key(["method", "label"], named=True, unique=True)
    rows = [[cells[method, label] for method in methods] for label in labels]
    axes, (linear, largest) = drawing.subplots(), SCALES[measure.log_odds]
    norm = SymLogNorm(linear, vmin=-largest, vmax=largest)
    sizes = [[cell["half"] for cell in row] for row in rows]
    shade = axes.imshow(sizes, aspect="auto", cmap="RdBu_r", norm=norm)
    for y, row in enumerate(rows):
        for x, cell in enumerate(row):
            if cell["significant"]:
                dark = abs(cell["half"]) > largest / 5
                axes.plot([x], [y], ".", ms=3, color="white" if dark else "black")
    slanted, upright = {"rotation": 35, "ha": "right"}, {"rotation": 90, "fontsize": 6}
    turned = slanted if len(methods) <= BESIDE else upright
    axes.set_xticks(range(len(methods)), map(name_of, methods), **turned)
    words = short_labels(labels)
    counts = [cells[methods[0], label]["n_items"] for label in labels]
    named = [f"{words[label]} ({n})" for label, n in zip(labels, counts, strict=True)]
    axes.set_yticks(range(len(labels)), named)
    axes.get_yticklabels()[0].set_fontweight("bold")
    axes.axhline(0.5, color="black", lw=1)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    ticks = (-largest, -linear, 0, linear, largest)
    bar = drawing.colorbar(shade, ax=axes, location="top")
    bar.set_ticks(ticks, labels=[with_minus(f"{tick:g}") for tick in ticks])
    bar.set_label(measure.words)
