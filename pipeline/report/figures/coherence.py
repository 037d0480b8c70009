"""Effect against cost: every method's doses, the efficient frontier, the budget, and what random
directions reach.
"""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.report.figures.look import BAND, QUIET, figure, legend, methods_of, stacked, style
from pipeline.report.figures.words import has_dose
from pipeline.support.schemas import MEAN

TICKS = (0, 0.02, 0.05, 0.1, 0.3, 1, 3, 10)


def frontier(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the (cost, effect) points that no other point beats at the same or a lower cost, by
    rising cost.
    """
    found: list[tuple[float, float]] = []
    for cost, effect in sorted(points, key=lambda point: (point[0], -point[1])):
        if effect > (found[-1][1] if found else 0.0):
            found.append((cost, effect))
    return found


def random_band(effects: pl.DataFrame) -> pl.DataFrame:
    """Return, by |c|, the range over random directions of half the span between +c and -c, and its
    mean cost, from dose 0 on.
    """
    half = (pl.col("coefficient").sign() * pl.col("target_effect")).mean().alias("half")
    rows = effects.filter((pl.col("method") == "random") & (pl.col("seed") != MEAN))
    by_seed = rows.group_by("seed", pl.col("coefficient").abs(), maintain_order=True).agg(
        half, pl.col("delta_nll").mean()
    )
    found = by_seed.group_by("coefficient").agg(
        pl.col("half").min().alias("low"), pl.col("half").max().alias("high"), pl.col("delta_nll").mean()
    ).sort("coefficient")  # fmt: skip
    return pl.concat([found.clear(1).fill_null(0), found]) if found.height else found


def effect_vs_coherence(
    folder: Path,
    effects: pl.DataFrame,
    arms: pl.DataFrame,
    equal: pl.DataFrame,
    budget: float,
    caption: str,
) -> None:
    """Half the span between +c and -c against its cost; rings mark the equal-cost dose, a line
    `budget` (nats of Δ NLL).
    """
    methods, band = methods_of(arms), random_band(effects)
    dosed = [method for method in methods if has_dose(method)]
    inner = arms.filter(pl.col("method").is_in(dosed))["target_effect"].to_list()
    reached = (
        inner
        + equal.filter(pl.col("calibrated"))["target_effect"].to_list()
        + band["low"].to_list()
        + band["high"].to_list()
    )
    said = (
        f"{caption}. Doses rise along each line, rings mark equal cost. Frontier: best of all "
        "doses and rings but random."
    )
    measured = pl.concat(
        [
            frame.select("method", "delta_nll", "target_effect")
            for frame in (arms, equal.filter("calibrated"))
        ]
    )
    measured = measured.filter(pl.col("method").is_in(dosed))
    with figure(folder, "effect_vs_coherence", said, 4.6) as drawing:
        panels = stacked(
            drawing, reached if inner else [], [*reached, *arms["target_effect"]], "y", (1, 3)
        )
        for axes in panels:
            if band.height:
                x, low, high = (band[name].to_numpy() for name in ("delta_nll", "low", "high"))
                axes.fill_between(
                    x, low, high, color=BAND, lw=0, label="range of random directions"
                )
            draw_frontier(axes, measured)
            for method in methods:
                draw_method(axes, method, arms, equal)
            axes.axvline(
                budget, color="black", lw=0.8, ls=":", label=f"budget of Δ NLL: {budget:g} nats"
            )
            axes.axvline(0, color=QUIET, lw=0.6)
        main = panels[0]
        main.axhline(0, color=QUIET, lw=0.6)
        main.set_xscale("symlog", linthresh=0.1, linscale=2)
        costs = [0.0, budget, *arms["delta_nll"]]
        main.set_xlim(min(costs) - 0.004, max(costs) * 1.15 + 0.004)
        main.set_xticks(
            ticks := [tick for tick in TICKS if tick <= main.get_xlim()[1]],
            [f"{tick:g}" for tick in ticks],
        )
        main.minorticks_off()
        main.set_xlabel(
            "coherence cost: rise of the NLL of the dilemma's own text (nats per token)"
        )
        main.set_ylabel("effect on the target choice\n(half the span between +c and −c)")
        legend(drawing, main)


def draw_frontier(axes: Any, measured: pl.DataFrame) -> None:
    points = frontier(
        measured.filter(pl.col("method") != "random").select("delta_nll", "target_effect").rows()
    )
    if points:
        end = float(measured["delta_nll"].to_numpy().max())
        x, y = (
            [cost for cost, _ in points] + [end],
            [effect for _, effect in points] + [points[-1][1]],
        )
        axes.plot(
            x,
            y,
            drawstyle="steps-post",
            color="#f0c800",
            lw=4,
            alpha=0.45,
            zorder=1,
            label="efficient frontier (with a dose)",
        )


def draw_method(axes: Any, method: str, arms: pl.DataFrame, equal: pl.DataFrame) -> None:
    rows, look = arms.filter(pl.col("method") == method).sort("coefficient"), style(method)
    start = [0.0] if has_dose(method) else []
    line = {"ls": "-"} | look | {"lw": 1, "markevery": slice(len(start), None)}
    axes.plot([*start, *rows["delta_nll"]], [*start, *rows["target_effect"]], **line)
    same = equal.filter((pl.col("method") == method) & pl.col("calibrated"))
    ring = {"ls": "none", "marker": "o", "ms": 10, "mfc": "none", "mec": look["color"], "mew": 1}
    axes.plot(same["delta_nll"], same["target_effect"], **ring)
