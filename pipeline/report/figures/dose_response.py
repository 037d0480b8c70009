"""Dose-response: a panel per method with intervals, seeds, random directions and the oracle."""

from typing import Any

import polars as pl

from pipeline.report.figures import look
from pipeline.report.figures.look import COLUMNS, QUIET, Sheet, halves, methods_of
from pipeline.report.figures.words import has_dose
from pipeline.support.formats import with_minus
from pipeline.support.schemas import MEAN

Oracle = list[dict[str, float]]
EDGES = ("ci_low", "ci_high", "seed_min", "seed_max")


def dose_response(sheet: Sheet, effects: pl.DataFrame, oracle: Oracle) -> None:
    """Draw the effect at every c: methods with a dose on one scale, those without on another."""
    methods = sorted(methods_of(effects), key=lambda method: not has_dose(method))
    said = explained("random" in methods, oracle)
    with halves(sheet, "dose_response", said, look.grid_height(len(methods))) as parts:
        for part, measure in parts:
            law = measure.of(pl.DataFrame(oracle)).to_dicts()
            draw(part, methods, measure.of(effects), law)
            label = f"change of the target choice,\n{measure.words}"
            part.supylabel(label, fontsize=8, multialignment="center")


def draw(drawing: Any, methods: list[str], effects: pl.DataFrame, oracle: Oracle) -> None:
    panels, kinds = look.grid(drawing, len(methods), sharex=True), list(map(has_dose, methods))
    largest = effects["coefficient"].abs().to_numpy().max()
    for index, (axes, method, dosed) in enumerate(zip(panels, methods, kinds, strict=True)):
        draw_method(axes, method, effects)
        for point in oracle:
            ends = [0, largest * point["coefficient"]]
            axes.plot(ends, [point["target_effect"]] * 2, color="black", lw=0.8, ls=":")
        alike = [other for other, kind in zip(methods, kinds, strict=True) if kind == dosed]
        axes.set_ylim(*scale(effects.filter(pl.col("method").is_in(alike)), oracle, dosed))
        style, lowest = look.style(method), index + COLUMNS >= len(methods)
        axes.set_title(look.folded(method, 22), color=style["color"])
        axes.set_xlabel("coefficient c" if lowest else "")
        first = index in (0, kinds.index(dosed)) or index % COLUMNS == 0
        axes.tick_params(labelbottom=lowest, labelleft=first)
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


def scale(effects: pl.DataFrame, oracle: Oracle, dosed: bool) -> tuple[float, float]:
    """Return the limits of all panels of one kind; without a dose, the oracle is inside."""
    means = effects.filter(seed=MEAN)
    values = [0.0, *(value for name in EDGES for value in means[name].drop_nulls())]
    return look.limits(values + [point["target_effect"] for point in oracle if not dosed])


def draw_method(axes: Any, method: str, effects: pl.DataFrame) -> None:
    """Draw the mean with its 95 % interval, single seeds thin, and random directions behind it."""
    rows, style = effects.filter(method=method), look.style(method)
    band = with_zero(effects.filter(method="random", seed=MEAN))
    axes.axhline(0, color=QUIET, lw=0.6)
    if band.height > 1 and has_dose(method):
        look.shade(axes, band, "coefficient", "seed_min", "seed_max")
    for _, seed in rows.filter(pl.col("seed") != MEAN).group_by("seed", maintain_order=True):
        line, thin = with_zero(seed), {"color": style["color"], "lw": 0.5, "alpha": 0.5}
        axes.plot(line["coefficient"], line["target_effect"], **thin)
    own = with_zero(rows.filter(seed=MEAN))
    look.draw_effects(axes, own["coefficient"], own, style | {"ls": "-", "lw": 1.2, "ms": 3.5})


def with_zero(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with coefficient 0, where nothing changes, by rising coefficient."""
    names = ("coefficient", "target_effect", *EDGES)
    zero = pl.DataFrame({name: [0.0] for name in names})
    return pl.concat([rows.select(pl.col(names).cast(pl.Float64)), zero]).sort("coefficient")
