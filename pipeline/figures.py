"""The report's figures: SVG and PNG, one colour per method everywhere (Okabe and Ito, safe for colour-blind eyes)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import polars as pl

from pipeline.schemas import MEAN
from pipeline.steering import METHODS
from pipeline.tables import name_of, parent

mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

# Okabe and Ito, then dark tones of Tol's muted scheme: ten that colour-blind eyes tell apart, with a marker each.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#999999", "#E69F00", "#56B4E9", "#882255", "#332288", "#BBBBBB"]
COLOURS = dict(zip(METHODS, PALETTE, strict=True))
MARKERS = dict(zip(METHODS, "osD^xvP*h.", strict=True))


@contextmanager
def figure(folder: Path, name: str, caption: str, size: tuple[float, float], panels: int) -> Iterator[list[Any]]:
    """Yield the axes of so many panels; write <name>.svg and .png with the caption, the same bytes for the same content."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "innerpissa", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        columns = min(panels, 4)
        drawing, axes = plt.subplots(-(-panels // columns), columns, figsize=size, layout="constrained", squeeze=False)
        for unused in axes.flat[panels:]:
            unused.set_visible(False)
        yield list(axes.flat[:panels])
        drawing.supxlabel(caption, fontsize=7, color="#555555")
        drawing.savefig(folder / f"{name}.svg", metadata={"Date": None})
        drawing.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
        plt.close(drawing)


def style(method: str) -> dict[str, Any]:
    """Return a method's own look; variants share their method's colour and are drawn smaller, one with a free name in black."""
    root = parent(method)
    look = {"color": COLOURS.get(root, "black"), "marker": MARKERS.get(root, "."), "label": name_of(method), "ms": 5}
    return look if method == root else look | {"ms": 3, "alpha": 0.7}


def methods_of(effects: pl.DataFrame) -> list[str]:
    present = effects["method"].unique(maintain_order=True).to_list()
    order = {method: index for index, method in enumerate(METHODS)}
    return sorted(present, key=lambda method: order.get(parent(method), len(order)))


def with_and_without_prompting(panels: list[Any], effects: pl.DataFrame) -> Iterator[tuple[Any, list[str]]]:
    """Yield axes and methods: all, and those with a dose alone, which a prompt's larger effect would press flat."""
    methods = methods_of(effects)
    yield panels[0], methods
    yield panels[1], [method for method in methods if parent(method) != "prompting"]


def effect_vs_coherence(folder: Path, effects: pl.DataFrame, caption: str) -> None:
    """Every method and coefficient: movement towards the coefficient's own side against its cost in NLL."""
    means = effects.filter(pl.col("seed") == MEAN).with_columns(
        (pl.col("coefficient").sign() * pl.col("target_effect")).alias("gain")
    )
    with figure(folder, "effect_vs_coherence", caption, (11, 4.6), 2) as panels:
        for axes, methods in with_and_without_prompting(panels, means):
            for method in methods:
                draw_arms(axes, method, means.filter(pl.col("method") == method))
            axes.axhline(0, color="#bbbbbb", lw=0.8)
            axes.axvline(0, color="#bbbbbb", lw=0.8)
            axes.set_xscale("symlog", linthresh=0.1)
            axes.set_xlabel("coherence cost: Δ NLL of the prompt (nats per token)")
        panels[0].set_ylabel("effect on the target choice in the intended direction")
        panels[0].set_title("all methods", fontsize=9)
        panels[1].set_title("without prompting (filled +c, open −c, largest |c| named)", fontsize=9)
        legend_of_all(panels)


def draw_arms(axes: Any, method: str, rows: pl.DataFrame) -> None:
    look = style(method)
    for sign, fill in ((1, look["color"]), (-1, "white")):
        arm = rows.filter(pl.col("coefficient") * sign > 0).sort(pl.col("coefficient").abs())
        label = look["label"] if sign > 0 else None
        line = "-" if sign > 0 else "--"
        axes.plot(arm["delta_nll"], arm["gain"], lw=1, ls=line, markerfacecolor=fill, **look | {"label": label})
        for x, y, c in arm.tail(1).select("delta_nll", "gain", "coefficient").iter_rows():
            axes.annotate(f"{c:+g}", (x, y), fontsize=7, xytext=(4, 4), textcoords="offset points", color=look["color"])


def legend_of_all(panels: list[Any]) -> None:
    """Name every method once, right of the last panel."""
    handles, names = panels[0].get_legend_handles_labels()
    panels[1].legend(handles, names, frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))


def dose_response(folder: Path, effects: pl.DataFrame, oracle: list[dict[str, float]], caption: str) -> None:
    """The target effect at every coefficient with its 95 % interval; random directions as a band over their seeds."""
    means = effects.filter(pl.col("seed") == MEAN)
    end = float(means["coefficient"].abs().to_numpy().max())
    with figure(folder, "dose_response", caption, (11, 4.6), 2) as panels:
        for axes, methods in with_and_without_prompting(panels, means):
            for method in methods:
                draw_doses(axes, method, means.filter(pl.col("method") == method))
            axes.axhline(0, color="#bbbbbb", lw=0.8)
            axes.set_xlabel("coefficient")
        for point in oracle:
            reach, effect = end * point["coefficient"], point["target_effect"]
            panels[0].plot([0, reach], [effect] * 2, color="black", lw=0.8, ls=":", label="oracle" if reach > 0 else None)
        panels[0].set_ylabel("change of the probability of the target choice")
        panels[0].set_title("all methods", fontsize=9)
        panels[1].set_title("without prompting", fontsize=9)
        legend_of_all(panels)


def draw_doses(axes: Any, method: str, rows: pl.DataFrame) -> None:
    at_zero = pl.DataFrame({"coefficient": [0.0], "target_effect": [0.0], "ci_low": [0.0], "ci_high": [0.0]})
    rows = pl.concat([rows, at_zero], how="diagonal_relaxed").sort("coefficient")
    x, y, look = rows["coefficient"].to_numpy(), rows["target_effect"].to_numpy(), style(method)
    if method == "random":
        low, high = (rows[name].fill_null(0.0).to_numpy() for name in ("seed_min", "seed_max"))
        axes.fill_between(x, low, high, color=look["color"], alpha=0.35, label=f"{look['label']} (range over seeds)")
        return
    low, high = y - rows["ci_low"].to_numpy(), rows["ci_high"].to_numpy() - y
    axes.errorbar(x, y, yerr=[low.clip(0), high.clip(0)], lw=1.2, capsize=2, **look)


def training_curves(folder: Path, histories: dict[str, dict[int, pl.DataFrame]], caption: str) -> None:
    """The loss of every trained adapter by step, a panel per method: thin on training batches, dots on the calibration pairs."""
    rows = -(-len(histories) // 4)
    with figure(folder, "training", caption, (8.4, 0.8 + 2.2 * rows), len(histories)) as panels:
        for axes, (method, seeds) in zip(panels, histories.items(), strict=True):
            for seed, history in seeds.items():
                train, held = (history.filter(pl.col("split") == split) for split in ("train", "calibration"))
                colour = PALETTE[seed % len(PALETTE)]
                axes.plot(train["step"], train["loss"], lw=0.5, alpha=0.4, color=colour)
                axes.plot(held["step"], held["loss"], marker="o", ms=2.5, lw=1, color=colour, label=f"seed {seed}")
            axes.set_ylim(*window(pl.concat(seeds.values())["loss"]))
            axes.set_title(name_of(method), fontsize=8)
            axes.set_xlabel("step", fontsize=8)
        panels[0].set_ylabel("loss")
        panels[-1].legend(frameon=False, fontsize=7)


def window(losses: pl.Series) -> tuple[float, float]:
    """Return limits that show all but the wildest hundredth of single batches."""
    low, high = (float(losses.quantile(q, "linear") or 0.0) for q in (0.005, 0.99))
    return low - 0.05 * (high - low), high + 0.05 * (high - low)
