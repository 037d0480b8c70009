"""Training curves: the loss of every trained adapter by step."""

import polars as pl

from pipeline.report.figures.look import Sheet, figure, folded, grid, grid_height, style

LINES = ("-", "--", ":", "-.")


def training_curves(sheet: Sheet, histories: dict[str, dict[int, pl.DataFrame]]) -> None:
    """Draw a panel per method, a line style per seed: thin on batches, marks on calibration."""
    said = "The most extreme 1.5 % of losses lie outside of the panels."
    with figure(sheet, "training", said, grid_height(len(histories))) as drawing:
        panels = grid(drawing, len(histories))
        for axes, (method, seeds) in zip(panels, histories.items(), strict=False):
            look = style(method)
            colour, marks = {"color": look["color"]}, {"marker": look["marker"], "ms": 2.5}
            for place, (seed, history) in enumerate(seeds.items()):
                train, held = (history.filter(split=name) for name in ("train", "calibration"))
                axes.plot(train["step"], train["loss"], lw=0.4, alpha=0.4, **colour)
                line = colour | marks | {"ls": LINES[place % len(LINES)], "lw": 1}
                axes.plot(held["step"], held["loss"], label=f"seed {seed}", **line)
            axes.set_ylim(*window(pl.concat(seeds.values())["loss"]))
            axes.set_title(folded(method, 22), **colour)
            axes.set_xlabel("step")
            axes.legend()
        panels[0].set_ylabel("loss")


def window(losses: pl.Series) -> tuple[float, float]:
    """Return limits that show all but the wildest hundredth of single batches."""
    low, high = (float(losses.quantile(q, "linear") or 0.0) for q in (0.005, 0.99))
    return low - 0.05 * (high - low), high + 0.05 * (high - low)
