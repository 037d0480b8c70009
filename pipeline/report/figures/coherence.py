"""Effect against cost: every method's coefficients, the frontier, the budget, random directions."""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.metrics.drawn import frontier_steps, random_band
from pipeline.report.figures.look import (
    BAND,
    QUIET,
    Measure,
    halves,
    legend,
    methods_of,
    stacked,
    style,
)
from pipeline.report.figures.words import has_dose

TICKS = (0, 0.02, 0.05, 0.1, 0.3, 1, 3, 10)
RING = {"ls": "none", "marker": "o", "ms": 10, "mfc": "none", "mew": 1}


def effect_vs_coherence(
    folder: Path,
    arms: pl.DataFrame,
    equal: pl.DataFrame,
    effects: pl.DataFrame,
    budget: float,
    log_odds_first: bool,
    caption: str,
) -> None:
    """Draw half the span between +c and -c against its cost (Δ NLL in nats); rings mark the dose.

    The dotted line is at `budget`.
    """
    said = (
        f"{caption}. |c| rises along each line, rings mark equal cost. Frontier: best of all "
        "points but random."
    )
    with halves(folder, "effect_vs_coherence", said, 3.8, log_odds_first) as parts:
        for part, measure in parts:
            panel = draw(part, measure, arms, equal, effects, budget)
            if part is parts[0][0]:
                legend(part, panel)


def draw(
    drawing: Any,
    measure: Measure,
    arms: pl.DataFrame,
    equal: pl.DataFrame,
    effects: pl.DataFrame,
    budget: float,
) -> Any:
    """Draw one measure; return the panel of methods with a dose."""
    arms, equal, effects = map(measure.of, (arms, equal, effects))
    band, steps, methods = random_band(effects), frontier_steps(arms, equal), methods_of(arms)
    dosed = pl.col("method").is_in([method for method in methods if has_dose(method)])
    inner = arms.filter(dosed)["target_effect"].to_list()
    reached = [*inner, *band["low"], *band["high"]]
    far = [*reached, *arms["target_effect"]]
    panels = stacked(drawing, reached if inner else [], far, "y", (1, 3))
    for axes in panels:
        draw_background(axes, band, steps)
        for method in methods:
            of_method = pl.col("method") == method
            draw_method(axes, method, arms.filter(of_method), equal.filter(of_method))
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


def draw_background(axes: Any, band: pl.DataFrame, frontier: pl.DataFrame) -> None:
    if band.height:
        x, low, high = (band[name].to_numpy() for name in ("delta_nll", "low", "high"))
        axes.fill_between(x, low, high, color=BAND, lw=0, label="range of random directions")
    if frontier.height:
        line = {"color": "#f0c800", "lw": 4, "alpha": 0.45, "zorder": 1}
        label = "efficient frontier (with a dose)"
        steps = frontier["delta_nll"], frontier["target_effect"]
        axes.plot(*steps, drawstyle="steps-post", label=label, **line)


def draw_method(axes: Any, method: str, arms: pl.DataFrame, equal: pl.DataFrame) -> None:
    rows, look, start = arms.sort("coefficient"), style(method), [0.0] * has_dose(method)
    line = {"ls": "-"} | look | {"lw": 1, "markevery": slice(len(start), None)}
    axes.plot([*start, *rows["delta_nll"]], [*start, *rows["target_effect"]], **line)
    same = equal.filter("calibrated")
    axes.plot(same["delta_nll"], same["target_effect"], **RING | {"mec": look["color"]})
