"""Effect against cost: every method's coefficients, the frontier, the budget, random directions."""

from typing import Any

import polars as pl

from pipeline.metrics.drawn import frontier_steps, random_band
from pipeline.report.figures import look
from pipeline.report.figures.look import QUIET, Measure, Sheet, halves, methods_of
from pipeline.report.figures.words import has_dose

TICKS = (0, 0.02, 0.05, 0.1, 0.3, 1, 3, 10)
RING = {"ls": "none", "marker": "o", "ms": 10, "mfc": "none", "mew": 1}
FRONTIER = {
    "label": "efficient frontier (with a dose)", "drawstyle": "steps-post", "color": "#f0c800",
    "lw": 4, "alpha": 0.45, "zorder": 1,
}  # fmt: skip


def effect_vs_coherence(
    sheet: Sheet, arms: pl.DataFrame, equal: pl.DataFrame, effects: pl.DataFrame, budget: float
) -> None:
    """Draw half the span between +c and -c against its cost (Δ NLL in nats); rings mark the dose.

    The dotted line is at `budget`.
    """
    said = (
        "|c| rises along each line, rings mark equal cost. Frontier: best of all points but random."
    )
    with halves(sheet, "effect_vs_coherence", said, 3.8) as parts:
        for part, measure in parts:
            panel = draw(part, measure, budget, *map(measure.of, (arms, equal, effects)))
            if part is parts[0][0]:
                look.legend(part, panel)


def draw(
    drawing: Any, measure: Measure, budget: float, arms: pl.DataFrame, equal: pl.DataFrame,
    effects: pl.DataFrame,
) -> Any:  # fmt: skip
    """Draw one measure; return the panel of methods with a dose."""
    band, steps, methods = random_band(effects), frontier_steps(arms, equal), methods_of(arms)
    dosed = pl.col("method").is_in([method for method in methods if has_dose(method)])
    inner = arms.filter(dosed)["target_effect"].to_list()
    reached = [*inner, *band["low"], *band["high"]]
    panels = look.stacked(drawing, reached if inner else [], [*reached, *arms["target_effect"]])
    for axes in panels:
        if band.height:
            look.shade(axes, band, "delta_nll", "low", "high", label="range of random directions")
        if steps.height:
            axes.plot(steps["delta_nll"], steps["target_effect"], **FRONTIER)
        for method in methods:
            draw_method(axes, method, arms.filter(method=method), equal.filter(method=method))
        label = f"budget of Δ NLL: {budget:g} nats"
        axes.axvline(budget, color="black", lw=0.8, ls=":", label=label)
        axes.axvline(0, color=QUIET, lw=0.6)
    finish(panels[0], measure, [0.0, budget, *arms["delta_nll"]])
    return panels[0]


def finish(axes: Any, measure: Measure, costs: list[float]) -> None:
    axes.axhline(0, color=QUIET, lw=0.6)
    axes.set_xscale("symlog", linthresh=0.1, linscale=2)
    axes.set_xlim(min(costs) - 0.004, max(costs) * 1.15 + 0.004)
    ticks = [tick for tick in TICKS if tick <= axes.get_xlim()[1]]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("coherence cost: rise of the NLL of the dilemma's own text (nats per token)")
    axes.set_ylabel(f"effect on the target choice, {measure.words}\n(half the span, +c to −c)")


def draw_method(axes: Any, method: str, arms: pl.DataFrame, equal: pl.DataFrame) -> None:
    rows, style, start = arms.sort("coefficient"), look.style(method), [0.0] * has_dose(method)
    line = {"ls": "-"} | style | {"lw": 1, "markevery": slice(len(start), None)}
    axes.plot([*start, *rows["delta_nll"]], [*start, *rows["target_effect"]], **line)
    same = equal.filter("calibrated")
    axes.plot(same["delta_nll"], same["target_effect"], **RING | {"mec": style["color"]})
