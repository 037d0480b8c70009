"""The report's figures: SVG and PNG, one colour per method everywhere (Okabe and Ito, safe for colour-blind eyes)."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import polars as pl

from pipeline.schemas import MEAN
from pipeline.steering import METHODS
from pipeline.tables import NAMES

mpl.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#999999", "#E69F00", "#56B4E9", "#F0E442"]
COLOURS = dict(zip(METHODS, PALETTE, strict=False))
MARKERS = dict(zip(METHODS, "osD^xvP*", strict=False))


@contextmanager
def figure(folder: Path, name: str, caption: str, size: tuple[float, float] = (7.2, 4.6)) -> Iterator[Any]:
    """Yield axes; write <name>.svg and <name>.png with the caption below, the same bytes for the same content."""
    folder.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "innerpissa", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        drawing, axes = plt.subplots(figsize=size, layout="constrained")
        yield axes
        drawing.supxlabel(caption, fontsize=7, color="#555555")
        drawing.savefig(folder / f"{name}.svg", metadata={"Date": None})
        drawing.savefig(folder / f"{name}.png", dpi=150, metadata={"Software": None})
        plt.close(drawing)


def style(method: str) -> dict[str, Any]:
    return {"color": COLOURS[method], "marker": MARKERS[method], "label": NAMES.get(method, method)}


def methods_of(effects: pl.DataFrame) -> list[str]:
    present = set(effects["method"])
    return [method for method in METHODS if method in present]


def effect_vs_coherence(folder: Path, effects: pl.DataFrame, caption: str) -> None:
    """Every method and coefficient: movement towards the coefficient's own side against its cost in NLL."""
    means = effects.filter(pl.col("seed") == MEAN).with_columns(
        (pl.col("coefficient").sign() * pl.col("target_effect")).alias("gain")
    )
    with figure(folder, "effect_vs_coherence", caption) as axes:
        for method in methods_of(means):
            rows = means.filter(pl.col("method") == method)
            for sign, fill in ((1, COLOURS[method]), (-1, "white")):
                arm = rows.filter(pl.col("coefficient") * sign > 0).sort(pl.col("coefficient").abs())
                look = style(method) | ({"label": None} if sign < 0 else {})
                axes.plot(arm["delta_nll"], arm["gain"], lw=1, ls="-" if sign > 0 else "--", markerfacecolor=fill, **look)
                for x, y, c in arm.tail(1).select("delta_nll", "gain", "coefficient").iter_rows():
                    axes.annotate(f"{c:+g}", (x, y), fontsize=7, xytext=(4, 4), textcoords="offset points", color=COLOURS[method])
        axes.axhline(0, color="#bbbbbb", lw=0.8)
        axes.axvline(0, color="#bbbbbb", lw=0.8)
        axes.set_xscale("symlog", linthresh=0.1)
        axes.set_xlabel("coherence cost: Δ NLL of the prompt (nats per token; filled +c, open −c, largest |c| named)")
        axes.set_ylabel("effect on the target choice in the intended direction")
        axes.legend(frameon=False)


def dose_response(folder: Path, effects: pl.DataFrame, oracle: list[dict[str, float]], caption: str) -> None:
    """The target effect at every coefficient with its 95 % interval; random directions as a band over their seeds."""
    means = effects.filter(pl.col("seed") == MEAN)
    with figure(folder, "dose_response", caption) as axes:
        for method in methods_of(means):
            rows = means.filter(pl.col("method") == method).sort("coefficient")
            at_zero = pl.DataFrame({"coefficient": [0.0], "target_effect": [0.0], "ci_low": [0.0], "ci_high": [0.0]})
            rows = pl.concat([rows, at_zero], how="diagonal_relaxed").sort("coefficient")
            x, y = rows["coefficient"].to_numpy(), rows["target_effect"].to_numpy()
            if method == "random":
                low, high = (rows[name].fill_null(0.0).to_numpy() for name in ("seed_min", "seed_max"))
                axes.fill_between(x, low, high, color=COLOURS[method], alpha=0.25, label=f"{NAMES[method]} (range over seeds)")
                continue
            low, high = y - rows["ci_low"].to_numpy(), rows["ci_high"].to_numpy() - y
            axes.errorbar(x, y, yerr=[low.clip(0), high.clip(0)], lw=1.2, capsize=2, ms=4, **style(method))
        for point in oracle:
            end = float(means["coefficient"].abs().to_numpy().max()) * point["coefficient"]
            axes.plot([0, end], [point["target_effect"]] * 2, color="black", lw=0.8, ls=":", label="oracle" if end > 0 else None)
        axes.axhline(0, color="#bbbbbb", lw=0.8)
        axes.set_xlabel("coefficient")
        axes.set_ylabel("change of the probability of the target choice")
        axes.legend(frameon=False, fontsize=8)


def training_curves(folder: Path, histories: dict[str, pl.DataFrame], caption: str) -> None:
    """The loss of every trained adapter by step: thin on training batches, with dots on the calibration pairs."""
    with figure(folder, "training", caption) as axes:
        for index, (name, history) in enumerate(histories.items()):
            train, held = (history.filter(pl.col("split") == split) for split in ("train", "calibration"))
            axes.plot(train["step"], train["loss"], lw=0.6, alpha=0.5, color=PALETTE[index % len(PALETTE)])
            axes.plot(held["step"], held["loss"], marker="o", ms=3, lw=1.2, color=PALETTE[index % len(PALETTE)], label=name)
        axes.set_xlabel("optimiser step")
        axes.set_ylabel("loss (thin: training batches, dots: calibration pairs)")
        axes.legend(frameon=False)
