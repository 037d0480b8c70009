"""Dose-response: a panel per method with intervals, single seeds, the band of random directions,
and the oracle.
"""

import math
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.report.figures.look import BAND, QUIET, figure, limits, methods_of, style
from pipeline.report.figures.rendering import with_minus
from pipeline.report.figures.words import has_dose
from pipeline.support.schemas import MEAN

COLUMNS = 4


def dose_response(
    folder: Path, effects: pl.DataFrame, oracle: list[dict[str, float]], caption: str
) -> None:
    """Draw the target effect at every coefficient: methods with a dose on one scale, those without
    on another.
    """
    methods = sorted(methods_of(effects), key=lambda method: not has_dose(method))
    shown = {method: effects.filter(pl.col("method") == method) for method in methods}
    rows = math.ceil(len(methods) / COLUMNS)
    with figure(
        folder, "dose_response", f"{caption}. {legend_of(methods, oracle)}", 0.8 + 1.6 * rows
    ) as drawing:
        panels = list(drawing.subplots(rows, COLUMNS, sharex=True, squeeze=False).flat)
        for unused in panels[len(methods) :]:
            unused.set_visible(False)
        for axes, (method, own) in zip(panels, shown.items(), strict=False):
            draw_doses(axes, method, own, effects)
            draw_oracle(axes, oracle, effects)
        for dosed in (True, False):
            kind = [
                (index, method) for index, method in enumerate(methods) if has_dose(method) == dosed
            ]
            limits_of_kind = scale([shown[method] for _, method in kind], oracle, dosed)
            for index, method in kind:
                finish(
                    panels[index],
                    method,
                    index,
                    len(methods),
                    limits_of_kind,
                    first=index == kind[0][0],
                )
                if not dosed and len(kind) < len(methods):
                    panels[index].text(
                        0.03,
                        0.97,
                        "other scale",
                        transform=panels[index].transAxes,
                        fontsize=6.5,
                        va="top",
                    )
        drawing.supylabel(
            "change of the probability\nof the target choice", fontsize=8, multialignment="center"
        )


def legend_of(methods: list[str], oracle: list[dict[str, float]]) -> str:
    said = "Thick: mean with its 95 % interval; thin: single seeds"
    said += "; grey: range of single random directions." if "random" in methods else "."
    if not oracle:
        return said
    reached = [
        (with_minus(f"{point['target_effect']:+.2f}"), ">" if point["coefficient"] > 0 else "<")
        for point in oracle
    ]
    points = ", ".join(f"{effect} at c {side} 0" for effect, side in reached)
    return f"{said} Dotted: the oracle ({points}), where the scale reaches it."


def finish(
    axes: Any, method: str, index: int, count: int, limits: tuple[float, float], first: bool
) -> None:
    """Give a panel its limits, title and outer labels; `first` of its kind has the scale beside it
    wherever it stands.
    """
    look, lowest = style(method), index + COLUMNS >= count
    axes.set_ylim(*limits)
    axes.set_title(look["label"], color=look["color"])
    axes.tick_params(labelbottom=lowest, labelleft=first or index % COLUMNS == 0)
    if lowest:
        axes.set_xlabel("coefficient c")


def scale(
    frames: list[pl.DataFrame], oracle: list[dict[str, float]], dosed: bool
) -> tuple[float, float]:
    """Return the limits of all panels of one kind; the oracle is inside for methods without a
    dose.
    """
    means = [frame.filter(pl.col("seed") == MEAN) for frame in frames]
    values = [
        0.0,
        *(
            v
            for frame in means
            for name in ("ci_low", "ci_high", "seed_min", "seed_max")
            for v in frame[name].drop_nulls()
        ),
    ]
    return limits(values if dosed else [*values, *(point["target_effect"] for point in oracle)])


def draw_doses(axes: Any, method: str, own: pl.DataFrame, effects: pl.DataFrame) -> None:
    """Draw one method: mean with its 95 % interval, single seeds thin, and the range of random
    directions behind it.
    """
    band = with_zero(effects.filter((pl.col("method") == "random") & (pl.col("seed") == MEAN)))
    axes.axhline(0, color=QUIET, lw=0.6)
    if band.height > 1 and has_dose(method):
        x, low, high = (band[name].to_numpy() for name in ("coefficient", "seed_min", "seed_max"))
        axes.fill_between(x, low, high, color=BAND, lw=0)
    look = style(method)
    for _, seed in own.filter(pl.col("seed") != MEAN).group_by("seed", maintain_order=True):
        line = with_zero(seed)
        axes.plot(
            line["coefficient"], line["target_effect"], color=look["color"], lw=0.5, alpha=0.5
        )
    mean = with_zero(own.filter(pl.col("seed") == MEAN))
    y = mean["target_effect"].to_numpy()
    error = [(y - mean["ci_low"].to_numpy()).clip(0), (mean["ci_high"].to_numpy() - y).clip(0)]
    axes.errorbar(
        mean["coefficient"].to_numpy(),
        y,
        yerr=error,
        capsize=2,
        elinewidth=0.8,
        **look | {"ls": "-", "lw": 1.2, "ms": 3.5},
    )


def with_zero(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with coefficient 0, where nothing changes, by rising coefficient."""
    names = ("coefficient", "target_effect", "ci_low", "ci_high", "seed_min", "seed_max")
    zero = pl.DataFrame({name: [0.0] for name in names})
    return pl.concat([rows.select(pl.col(names).cast(pl.Float64)), zero]).sort("coefficient")


def draw_oracle(axes: Any, oracle: list[dict[str, float]], effects: pl.DataFrame) -> None:
    end = float(effects["coefficient"].abs().to_numpy().max())
    for point in oracle:
        axes.plot(
            [0, end * point["coefficient"]],
            [point["target_effect"]] * 2,
            color="black",
            lw=0.8,
            ls=":",
        )
