"""Forest plot: every method's effect at equal cost, with its interval and its single seeds."""

from typing import Any

import polars as pl

from pipeline.report.figures import look
from pipeline.report.figures.look import BAND, QUIET, Measure, Sheet, style

AT_BUDGET, AT_OWN_COST = "at the dose that costs the budget", "without a dose, at its own cost"


def forest(sheet: Sheet, equal: pl.DataFrame, seeds: pl.DataFrame) -> None:
    """`equal` holds a row per method, `seeds` (method, seed, effect) the same for single seeds."""
    said = (
        "Half the span between +c and −c with its 95 % interval. Small dots: single seeds (random: "
        "single directions)."
    )
    with look.halves(sheet, "forest", said, 1.6 + 0.29 * equal.height, beside=True) as parts:
        for part, measure in parts:
            draw(part, measure, measure.of(equal), measure.of(seeds))


def draw(drawing: Any, measure: Measure, equal: pl.DataFrame, seeds: pl.DataFrame) -> None:
    rows = equal.sort("target_effect", descending=True)
    dosed, others = rows.filter("calibrated"), rows.filter(calibrated=False)
    shown = {AT_BUDGET: dosed, f"{AT_OWN_COST} (other scale)": others}
    if not look.far_apart(reach(dosed), reach(rows)):
        kinds = {AT_BUDGET: dosed, AT_OWN_COST: others}
        shown = {";\n".join(title for title, part in kinds.items() if part.height): rows}
    heights = [max(part.height, 1) + 1 for part in shown.values()]
    panels = drawing.subplots(len(shown), 1, height_ratios=heights, squeeze=False).flat
    for axes, (title, part) in zip(panels, shown.items(), strict=True):
        draw_rows(axes, part, seeds)
        axes.set_title(title, loc="right")
    random = seeds.filter(method="random")["effect"]
    if random.len():
        band = {"color": BAND, "lw": 0, "zorder": 0, "label": "range of random directions"}
        shade = panels[0].axvspan(random.min(), random.max(), **band)
        drawing.legend(handles=[shade], loc="outside upper center")
    drawing.supxlabel(f"effect on the target choice, {measure.words}", fontsize=8)


def reach(rows: pl.DataFrame) -> list[float]:
    return [*rows["ci_low"], *rows["ci_high"]]


def draw_rows(axes: Any, rows: pl.DataFrame, seeds: pl.DataFrame) -> None:
    axes.axvline(0, color=QUIET, lw=0.8)
    spread = [0.0, *reach(rows)]
    for place, row in enumerate(rows.to_dicts()):
        own, effect = style(row["method"]), row["target_effect"]
        error = [[max(effect - row["ci_low"], 0)], [max(row["ci_high"] - effect, 0)]]
        bar = {"capsize": 2.5, "elinewidth": 1.2} | own | {"ls": "none", "ms": 6}
        axes.errorbar([effect], [place], xerr=error, **bar)
        single = seeds.filter(method=row["method"])["effect"].to_list()
        if len(single) > 1:
            places = [place + 0.28] * len(single)
            axes.plot(single, places, ".", ms=3.5, color=own["color"], alpha=0.7)
            spread += single
    axes.set_yticks(range(rows.height), map(look.folded, rows["method"]))
    axes.set_ylim(rows.height - 0.4, -0.6)
    axes.set_xlim(*look.limits(spread))
    axes.tick_params(axis="y", length=0)
    axes.locator_params(axis="x", nbins=5)
