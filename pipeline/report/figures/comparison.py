"""Effects across experiments: a curve by the one number that differs, else a place per
experiment.
"""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.report.figures.look import QUIET, figure, legend, methods_of, stacked, style
from pipeline.report.figures.words import has_dose

MANY = 8  # a number that spans this factor is drawn on a logarithmic axis


def comparison(folder: Path, rows: pl.DataFrame, axis: str, caption: str) -> None:
    """Draw the effect at equal cost with its 95 % interval.

    `rows` hold `experiment`, `x` (a number, or null in all) and the columns of equal_cost.csv.
    """
    numeric = not rows["x"].has_nulls()
    names = rows["experiment"].unique(maintain_order=True).to_list()
    place = (
        rows["x"].cast(pl.Float64)
        if numeric
        else pl.Series([float(names.index(name)) for name in rows["experiment"]])
    )
    rows = rows.with_columns(place.alias("place"))
    methods = methods_of(rows)
    inner = rows.filter(pl.col("method").map_elements(has_dose, pl.Boolean))
    reach = [*inner["ci_low"], *inner["ci_high"]]
    with figure(
        folder, "comparison", f"{caption}. Effect at equal cost with its 95 % interval.", 4.2
    ) as drawing:
        panels = stacked(drawing, reach, [*reach, *rows["ci_low"], *rows["ci_high"]], "y", (1, 3))
        for axes in panels:
            for index, method in enumerate(methods):
                offset = 0.0 if numeric else (index - (len(methods) - 1) / 2) * 0.6 / len(methods)
                draw(
                    axes,
                    rows.filter(pl.col("method") == method).sort("place"),
                    method,
                    offset,
                    numeric,
                )
        main = panels[0]
        main.axhline(0, color=QUIET, lw=0.6)
        main.set_ylabel("effect on the target choice")
        main.set_xlabel(axis)
        if numeric:
            ticks = sorted(set(rows["place"]))
            if ticks[0] > 0 and ticks[-1] >= MANY * ticks[0]:
                main.set_xscale("log")
            main.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            main.minorticks_off()
        else:
            main.set_xticks(range(len(names)), names, rotation=20, ha="right")
        legend(drawing, main)


def draw(axes: Any, rows: pl.DataFrame, method: str, offset: float, joined: bool) -> None:
    x, y = rows["place"].to_numpy() + offset, rows["target_effect"].to_numpy()
    error = [(y - rows["ci_low"].to_numpy()).clip(0), (rows["ci_high"].to_numpy() - y).clip(0)]
    look = {"ls": "-"} | style(method) | {"lw": 1}
    axes.errorbar(
        x, y, yerr=error, capsize=2, elinewidth=0.8, **look | ({} if joined else {"ls": "none"})
    )
