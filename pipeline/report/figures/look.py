"""What all figures share: one colour and marker per method, sizes, captions, files."""

import math
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import polars as pl
from matplotlib.figure import Figure, SubFigure

from pipeline.metrics.scores import exchanged
from pipeline.report.figures.words import in_order, name_of, parent
from pipeline.steering import METHODS
from pipeline.steering.base import Look

# Of methods without a look of their own, in the registry's order; after the last it starts anew.
FREE = [
    Look("#117733", "h"), Look("#AA4499", "d"), Look("#999933", "8"), Look("#661100", "<"),
    Look("#44AA99", ">"),
]  # fmt: skip
BLACK = Look("black", ".")
QUIET = "#bbbbbb"
BAND = "#d9d9d9"
COLUMNS = 4  # panels in a row
WIDTH = 7.2  # inches: two columns of a paper, so that the type below is printed at its size
SETTINGS = {
    "svg.hashsalt": "innerpissa", "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8,
    "legend.fontsize": 7, "legend.frameon": False, "xtick.labelsize": 7, "ytick.labelsize": 7,
    "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False,
}  # fmt: skip
# a method without a dose that reaches this many times as far as all others gets an axis of its own
OUTLIER = 3


class Sheet(NamedTuple):
    """Where the figures of a study go, and what all of them say."""

    folder: Path
    caption: str
    log_odds_first: bool = False
    """Whether the half in log-odds stands before that in probability."""


class Measure(NamedTuple):
    """What a half of a figure shows effects in."""

    words: str
    log_odds: bool

    def of(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return a table with the effects in this measure under the plain names."""
        return exchanged(rows) if self.log_odds else rows


MEASURES = [Measure("probability", False), Measure("log-odds (nats)", True)]


@contextmanager
def figure(sheet: Sheet, name: str, said: str, height: float) -> Iterator[Figure]:
    """Yield an empty figure; write <name>.svg and .png with the sheet's and its own caption."""
    sheet.folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(SETTINGS):
        drawing = Figure(figsize=(WIDTH, height), layout="constrained")
        yield drawing
        lines = textwrap.wrap(f"{sheet.caption}. {said}", 130, break_on_hyphens=False)
        drawing.supxlabel("\n".join(lines), fontsize=6.5, color="#444444")
        drawing.savefig(sheet.folder / f"{name}.svg", metadata={"Date": None})
        drawing.savefig(sheet.folder / f"{name}.png", dpi=200, metadata={"Software": None})


@contextmanager
def halves(
    sheet: Sheet, name: str, said: str, height: float, beside: bool = False
) -> Iterator[list[tuple[SubFigure, Measure]]]:
    """Yield the halves of a figure, in probability and in log-odds, each `height` inches high."""
    with figure(sheet, name, said, height if beside else 2 * height) as drawing:
        parts = drawing.subfigures(*((1, 2) if beside else (2, 1)), squeeze=False)
        yield list(zip(parts.flat, MEASURES[:: -1 if sheet.log_odds_first else 1], strict=True))


def grid(drawing: Figure | SubFigure, count: int, **options: Any) -> list[Any]:
    """Return `count` panels of a figure, in rows of `COLUMNS`."""
    shape = math.ceil(count / COLUMNS), min(count, COLUMNS)
    panels = drawing.subplots(*shape, squeeze=False, **options)
    for unused in panels.flat[count:]:
        unused.set_visible(False)
    return list(panels.flat[:count])


def grid_height(count: int) -> float:
    """Return how many inches high a grid of panels is."""
    return 0.8 + 1.6 * math.ceil(count / COLUMNS)


def look_of(method: str) -> Look:
    """Return the colour and marker of a method's class, or the next free ones."""
    given = {name: entry.load().look for name, entry in METHODS.items()}
    without = [name for name, look in given.items() if look is None]
    return given[method] or FREE[without.index(method) % len(FREE)]


def style(method: str) -> dict[str, Any]:
    """Return how to draw a method: a variant as its method but hollow, a free name black."""
    root = parent(method)
    colour, marker = look_of(root) if root in METHODS else BLACK
    look = {"color": colour, "marker": marker, "label": name_of(method), "ms": 5, "mew": 0.8}
    return look if method == root else look | {"mfc": "white", "ls": "--"}


def methods_of(rows: pl.DataFrame) -> list[str]:
    """Return the methods of a table in the order of the registry, variants after their method."""
    return in_order(rows["method"].to_list())


def far_apart(inner: list[float], every: list[float]) -> bool:
    """Say whether some of all values lie far outside of the inner ones."""
    return bool(inner) and max(map(abs, every)) > OUTLIER * max(map(abs, inner))


def stacked(drawing: Figure | SubFigure, inner: list[float], every: list[float]) -> list[Any]:
    """Return axes for `inner`, and second ones above, after a break, where others lie far off."""
    if not far_apart(inner, every):
        return [drawing.subplots()]
    outer, main = drawing.subplots(2, 1, sharex=True, height_ratios=(1, 3))
    low, high = limits(inner)
    far = [value for value in every if not low <= value <= high]
    main.set_ylim(low, high)
    outer.set_ylim(*limits(far, share=0.4, least=0.05))
    outer.spines["bottom"].set_visible(False)
    outer.tick_params(axis="x", which="both", length=0)
    cut = {"marker": [(-1, -0.6), (1, 0.6)], "markersize": 8, "mew": 0.8}
    cut |= {"ls": "none", "color": "k", "mec": "k", "clip_on": False}
    for axes, edge in ((outer, 0), (main, 1)):
        axes.plot([0], [edge], transform=axes.transAxes, **cut)
    return [main, outer]


def limits(values: list[float], share: float = 0.08, least: float = 1e-3) -> tuple[float, float]:
    """Return limits that leave a share of the span free on both sides."""
    low, high = min(values), max(values)
    free = max(share * (high - low), least)
    return low - free, high + free


def draw_effects(axes: Any, x: pl.Series, rows: pl.DataFrame, look: dict[str, Any]) -> None:
    """Draw target_effect at x with its 95 % interval."""
    effect, low, high = (rows[name].to_numpy() for name in ("target_effect", "ci_low", "ci_high"))
    error = [(effect - low).clip(0), (high - effect).clip(0)]
    axes.errorbar(x.to_numpy(), effect, yerr=error, capsize=2, elinewidth=0.8, **look)


def shade(axes: Any, rows: pl.DataFrame, x: str, low: str, high: str, **look: Any) -> None:
    """Fill what lies between two columns over a third."""
    along, lowest, highest = (rows[name].to_numpy() for name in (x, low, high))
    axes.fill_between(along, lowest, highest, color=BAND, lw=0, **look)


def folded(method: str, width: int = 30) -> str:
    """Return a method's name in lines of at most `width` characters."""
    return textwrap.fill(name_of(method), width)


def legend(drawing: Figure | SubFigure, axes: Any) -> None:
    """Name everything once, above the figure: a method's variants, which look alike, as one."""
    kinds: dict[tuple[str, ...], dict[str, Any]] = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        kinds.setdefault(label.partition(", ")[:2], {})[label] = handle
    named = {
        next(iter(own)) if len(own) == 1 else f"{method}, {len(own)} variants": [*own.values()][0]
        for (method, _), own in kinds.items()
    }
    drawing.legend([*named.values()], [*named], loc="outside upper center", ncols=4)
