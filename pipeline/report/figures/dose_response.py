"""Dose-response: a panel per method with intervals, seeds, random directions and the oracle."""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.report.figures.look import (
    BAND,
    COLUMNS,
    QUIET,
    draw_effects,
    grid,
    grid_height,
    halves,
    limits,
    methods_of,
    style,
)
from pipeline.report.figures.words import has_dose
from pipeline.support.formats import with_minus
from pipeline.support.schemas import MEAN

Oracle = list[dict[str, float]]
EDGES = ("ci_low", "ci_high", "seed_min", "seed_max")


def dose_response(
    folder: Path, effects: pl.DataFrame, oracle: Oracle, log_odds_first: bool, caption: str
) -> None:
    """Draw the effect at every c: methods with a dose on one scale, those without on another."""
    methods = sorted(methods_of(effects), key=lambda method: not has_dose(method))
    said = f"{caption}. {explained('random' in methods, oracle)}"
    height = grid_height(len(methods))
    with halves(folder, "dose_response", said, height, log_odds_first) as parts:
        for part, measure in parts:
            law = measure.of(pl.DataFrame(oracle)).to_dicts()
            draw(part, methods, measure.of(effects), law)
            label = f"change of the target choice,\n{measure.words}"
            part.supylabel(label, fontsize=8, multialignment="center")


def draw(drawing: Any, methods: list[str], effects: pl.DataFrame, oracle: Oracle) -> None:
    shown = {method: effects.filter(pl.col("method") == method) for method in methods}
    panels, kinds = grid(drawing, len(methods), sharex=True), list(map(has_dose, methods))
    for index, (method, rows) in enumerate(shown.items()):
        axes, dosed = panels[index], kinds[index]
        draw_method(axes, method, rows, effects)
        draw_oracle(axes, oracle, effects)
        alike = [other for kind, other in zip(kinds, shown.values(), strict=True) if kind == dosed]
        axes.set_ylim(*scale(alike, oracle, dosed))
        finish(axes, method, index + COLUMNS >= len(methods))
        axes.tick_params(labelleft=index in (0, kinds.index(dosed)) or index % COLUMNS == 0)
        if not dosed and any(kinds):
            where = {"transform": axes.transAxes, "fontsize": 6.5, "va": "top"}
            axes.text(0.03, 0.97, "other scale", **where)


def explained(random: bool, oracle: Oracle) -> str:
    said = "Thick: mean with its 95 % interval; thin: single seeds"
    said += "; grey: range of single random directions." if random else "."
    points = ", ".join(
        f"{with_minus(format(point['target_effect'], '+.2f'))} at c "
        f"{'>' if point['coefficient'] > 0 else '<'} 0"
        for point in oracle
    )
    return f"{said} Dotted: the oracle ({points}), where the scale reaches it." if oracle else said


def finish(axes: Any, method: str, lowest: bool) -> None:
    look = style(method)
    axes.set_title(look["label"], color=look["color"])
    axes.tick_params(labelbottom=lowest)
    if lowest:
        axes.set_xlabel("coefficient c")


def scale(frames: list[pl.DataFrame], oracle: Oracle, dosed: bool) -> tuple[float, float]:
    """Return the limits of all panels of one kind; without a dose, the oracle is inside."""
    means = pl.concat(frames).filter(pl.col("seed") == MEAN)
    values = [0.0, *(value for name in EDGES for value in means[name].drop_nulls())]
    return limits(values if dosed else [*values, *(point["target_effect"] for point in oracle)])


def draw_method(axes: Any, method: str, rows: pl.DataFrame, effects: pl.DataFrame) -> None:
    """Draw the mean with its 95 % interval, single seeds thin, and random directions behind it."""
    average, look = pl.col("seed") == MEAN, style(method)
    band = with_zero(effects.filter((pl.col("method") == "random") & average))
    axes.axhline(0, color=QUIET, lw=0.6)
    if band.height > 1 and has_dose(method):
        x, low, high = (band[name].to_numpy() for name in ("coefficient", "seed_min", "seed_max"))
        axes.fill_between(x, low, high, color=BAND, lw=0)
    for _, seed in rows.filter(~average).group_by("seed", maintain_order=True):
        line, thin = with_zero(seed), {"color": look["color"], "lw": 0.5, "alpha": 0.5}
        axes.plot(line["coefficient"], line["target_effect"], **thin)
    own = with_zero(rows.filter(average))
    draw_effects(axes, own["coefficient"], own, look | {"ls": "-", "lw": 1.2, "ms": 3.5})


def with_zero(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with coefficient 0, where nothing changes, by rising coefficient."""
    names = ("coefficient", "target_effect", *EDGES)
    zero = pl.DataFrame({name: [0.0] for name in names})
    return pl.concat([rows.select(pl.col(names).cast(pl.Float64)), zero]).sort("coefficient")


def draw_oracle(axes: Any, oracle: Oracle, effects: pl.DataFrame) -> None:
    end = float(effects["coefficient"].abs().to_numpy().max())
    for point in oracle:
        x, y = [0, end * point["coefficient"]], [point["target_effect"]] * 2
        axes.plot(x, y, color="black", lw=0.8, ls=":")
