"""Effects across experiments: by the one number that differs, else a place per experiment."""

from typing import Any

import polars as pl

from pipeline.report.figures import look
from pipeline.report.figures.look import QUIET, Measure, Sheet, halves, methods_of
from pipeline.report.figures.words import has_dose

MANY = 8  # a number that spans this factor is drawn on a logarithmic axis


def comparison(sheet: Sheet, rows: pl.DataFrame, axis: str) -> None:
    """Draw the effect at equal cost with its 95 % interval.

    `rows` hold `experiment`, `x` (a number, or null in all) and the columns of equal_cost.csv.
    """
    names = rows["experiment"].unique(maintain_order=True).to_list()
    place = pl.col("x")
    if rows["x"].has_nulls():
        place = pl.col("experiment").replace_strict(names, range(len(names)))
    else:
        names = []
    rows = rows.with_columns(place.cast(pl.Float64).alias("place")).sort("place")
    said = "Effect at equal cost with its 95 % interval."
    with halves(sheet, "comparison", said, 4.0) as parts:
        for part, measure in parts:
            panel = draw(part, measure.of(rows), not names)
            finish(panel, measure, sorted(set(rows["place"])), names)
            panel.set_xlabel(axis)
            if part is parts[0][0]:
                look.legend(part, panel)


def draw(drawing: Any, rows: pl.DataFrame, numeric: bool) -> Any:
    """Draw one measure; return the panel of methods with a dose."""
    methods = methods_of(rows)
    inner = rows.filter(pl.col("method").map_elements(has_dose, pl.Boolean))
    reach, far = ([*part["ci_low"], *part["ci_high"]] for part in (inner, rows))
    panels = look.stacked(drawing, reach, [*reach, *far])
    for axes in panels:
        for index, method in enumerate(methods):
            own, side = rows.filter(method=method), (index - (len(methods) - 1) / 2) * 0.6
            style = {"ls": "-"} | look.style(method) | {"lw": 1}
            if numeric:
                look.draw_effects(axes, own["place"], own, style)
            else:
                shifted = own["place"] + side / len(methods)
                look.draw_effects(axes, shifted, own, style | {"ls": "none"})
    return panels[0]


def finish(axes: Any, measure: Measure, places: list[float], names: list[str]) -> None:
    axes.axhline(0, color=QUIET, lw=0.6)
    axes.set_ylabel(f"effect on the target choice, {measure.words}")
    if names:
        axes.set_xticks(range(len(names)), names, rotation=20, ha="right")
        return
    if places[0] > 0 and places[-1] >= MANY * places[0]:
        axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.minorticks_off()
