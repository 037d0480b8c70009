"""Does the model still answer, and how many items fall below the gate of choice mass?"""

from typing import Any

import polars as pl

from pipeline.report.figures.look import Sheet, figure, folded, legend, methods_of, style
from pipeline.support.formats import with_minus
from pipeline.support.schemas import MEAN

TICKS = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)
MIDDLE = {"ha": "center", "va": "center", "fontsize": 6.5}


def choice_mass(
    sheet: Sheet, effects: pl.DataFrame, counts: pl.DataFrame, n_items: int, gate: float
) -> None:
    """Draw the mean probability on the answer words by c, and how many items are below the gate.

    `effects` has method, seed, coefficient, choice_mass; `counts` comes from
    `drawn.excluded_counts`.
    """
    rows = effects.filter(seed=MEAN).sort("coefficient")
    methods = methods_of(rows)
    said = "Counts are means over seeds; ·: a c that the method does not have."
    with figure(sheet, "choice_mass", said, 1.9 + 0.22 * len(methods)) as drawing:
        left, right = drawing.subplots(1, 2, width_ratios=(1, 1))
        for method in methods:
            own, look = rows.filter(method=method), {"ls": "-"} | style(method)
            # A mass of one has no place on this axis; float32 cannot tell it from 1 - 1e-7 either.
            mass = own["choice_mass"].clip(1e-4, 1 - 1e-6)
            left.plot(own["coefficient"], mass, **look | {"lw": 1, "ms": 4})
        left.axhline(gate, color="black", lw=0.8, ls=":", label=f"gate: {gate:g}")
        left.set_yscale("logit")
        left.set_ylim(bottom=min(0.3, gate / 2, *rows["choice_mass"]))
        ticks = [tick for tick in TICKS if tick >= left.get_ylim()[0]]
        left.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        left.minorticks_off()
        left.set_xlabel("coefficient c")
        left.set_ylabel("mean probability on the answer words")
        draw_counts(right, counts, methods)
        right.set_title(f"items of {n_items} below the gate")
        legend(drawing, left)


def draw_counts(axes: Any, counts: pl.DataFrame, methods: list[str]) -> None:
    """Print how many items are below the gate, by method and coefficient."""
    coefficients = sorted(counts["coefficient"].unique())
    cells = {(method, c): (share, count) for method, c, share, count in counts.iter_rows()}
    nothing = float("nan"), "·"
    grid = [[cells.get((method, c), nothing) for c in coefficients] for method in methods]
    shares = [[share for share, _ in row] for row in grid]
    axes.imshow(shares, aspect="auto", cmap="Greys", vmin=0, vmax=1)
    for y, row in enumerate(grid):
        for x, (share, count) in enumerate(row):
            axes.text(x, y, str(count), color="white" if share > 0.5 else "black", **MIDDLE)
    axes.set_xticks(range(len(coefficients)), [with_minus(f"{c:+g}") for c in coefficients])
    axes.set_yticks(range(len(methods)), [folded(method, 48) for method in methods])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("coefficient c")
