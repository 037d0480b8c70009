"""Dose-response: a panel per method with intervals, single seeds, the band of random directions, and the oracle."""

import math
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.figures.look import BAND, QUIET, figure, limits, methods_of, style
from pipeline.report.rendering import with_minus
from pipeline.report.words import has_dose
from pipeline.schemas import MEAN

COLUMNS = 4


def dose_response(folder: Path, effects: pl.DataFrame, oracle: list[dict[str, float]], caption: str) -> None:
    """Draw the target effect at every coefficient: methods with a dose on one scale, those without on another."""
    methods = sorted(methods_of(effects), key=lambda method: not has_dose(method))
    rows = math.ceil(len(methods) / COLUMNS)
    reached = [(with_minus(f"{point['target_effect']:+.2f}"), ">" if point["coefficient"] > 0 else "<") for point in oracle]
    points = ", ".join(f"{effect} at c {side} 0" for effect, side in reached)
    said = "Thick: mean with its 95 % interval; thin: single seeds; grey: range of single random directions."
    said += f" Dotted: the oracle ({points}), where the scale reaches it." if oracle else ""
    with figure(folder, "dose_response", f"{caption}. {said}", 0.6 + 1.6 * rows) as drawing:
        panels = list(drawing.subplots(rows, COLUMNS, sharex=True, squeeze=False).flat)
        for unused in panels[len(methods) :]:
            unused.set_visible(False)
        shown = {method: effects.filter(pl.col("method") == method) for method in methods}
        for axes, (method, own) in zip(panels, shown.items(), strict=False):
            draw_doses(axes, method, own, effects)
            draw_oracle(axes, oracle, effects)
        scales = {
            dosed: scale([own for m, own in shown.items() if has_dose(m) == dosed], oracle, dosed) for dosed in (True, False)
        }
        first_without = next((method for method in methods if not has_dose(method)), None)
        for index, (axes, method) in enumerate(zip(panels, methods, strict=False)):
            axes.set_ylim(*scales[has_dose(method)])
            axes.set_title(style(method)["label"], color=style(method)["color"])
            lowest = index + COLUMNS >= len(methods)
            axes.tick_params(labelbottom=lowest, labelleft=index % COLUMNS == 0 or method == first_without)
            if lowest:
                axes.set_xlabel("coefficient c")
            if not has_dose(method):
                axes.text(0.03, 0.97, "other scale", transform=axes.transAxes, fontsize=6.5, va="top")
        drawing.supylabel("change of the probability of the target choice", fontsize=8)


def scale(frames: list[pl.DataFrame], oracle: list[dict[str, float]], dosed: bool) -> tuple[float, float]:
    """Return the limits of all panels of one kind; the oracle is inside for methods without a dose."""
    means = [frame.filter(pl.col("seed") == MEAN) for frame in frames]
    values = [
        0.0,
        *(v for frame in means for name in ("ci_low", "ci_high", "seed_min", "seed_max") for v in frame[name].drop_nulls()),
    ]
    return limits(values if dosed else [*values, *(point["target_effect"] for point in oracle)])


def draw_doses(axes: Any, method: str, own: pl.DataFrame, effects: pl.DataFrame) -> None:
    """Draw one method: mean with its 95 % interval, single seeds thin, and the range of random directions behind it."""
    band = with_zero(effects.filter((pl.col("method") == "random") & (pl.col("seed") == MEAN)))
    axes.axhline(0, color=QUIET, lw=0.6)
    if band.height > 1 and has_dose(method):
        x, low, high = (band[name].to_numpy() for name in ("coefficient", "seed_min", "seed_max"))
        axes.fill_between(x, low, high, color=BAND, lw=0)
    look = style(method)
    for _, seed in own.filter(pl.col("seed") != MEAN).group_by("seed", maintain_order=True):
        line = with_zero(seed)
        axes.plot(line["coefficient"], line["target_effect"], color=look["color"], lw=0.5, alpha=0.5)
    mean = with_zero(own.filter(pl.col("seed") == MEAN))
    y = mean["target_effect"].to_numpy()
    error = [(y - mean["ci_low"].to_numpy()).clip(0), (mean["ci_high"].to_numpy() - y).clip(0)]
    axes.errorbar(
        mean["coefficient"].to_numpy(), y, yerr=error, capsize=2, elinewidth=0.8, **look | {"ls": "-", "lw": 1.2, "ms": 3.5}
    )


def with_zero(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with coefficient 0, where nothing changes, by rising coefficient."""
    names = ("coefficient", "target_effect", "ci_low", "ci_high", "seed_min", "seed_max")
    zero = pl.DataFrame({name: [0.0] for name in names})
    return pl.concat([rows.select(pl.col(names).cast(pl.Float64)), zero]).sort("coefficient")


def draw_oracle(axes: Any, oracle: list[dict[str, float]], effects: pl.DataFrame) -> None:
    end = float(effects["coefficient"].abs().to_numpy().max())
    for point in oracle:
        axes.plot([0, end * point["coefficient"]], [point["target_effect"]] * 2, color="black", lw=0.8, ls=":")
