"""What the report shows of a behaviour without a target: free texts side by side, and doses."""

import polars as pl

from pipeline.metrics.scores import at_one
from pipeline.report.columns import build, cost, method, raw, show
from pipeline.report.results import Results
from pipeline.support.paths import BASE


def one_line(text: str) -> str:
    return " ".join(text.split())


def texts(results: Results) -> pl.DataFrame:
    """The base's text to every prompt between those of each method's first seed near ±1."""
    if results.texts is None:
        return pl.DataFrame()
    base = results.texts.filter(method=BASE).select("prompt_id", base="text")
    steered = at_one(results.texts).filter(pl.col("seed") == pl.col("seed").min().over("method"))
    rows = steered.with_columns(pl.col("coefficient").sign()).pivot(
        "coefficient", index=["method", "prompt_id", "prompt"], values="text", maintain_order=True
    )
    rows = rows.join(base, on="prompt_id", maintain_order="left")
    return build(rows.sort("prompt_id", maintain_order=True), {
        "Prompt": show("prompt", one_line),
        "Method": method,
        f"c = −{results.unit:g}": show("-1.0", one_line),
        "c = 0": show("base", one_line),
        f"c = +{results.unit:g}": show("1.0", one_line),
    })  # fmt: skip


def doses(results: Results) -> pl.DataFrame:
    """What ±1 stand for and cost, a row per fit."""
    rows = []
    for (name, seed), adapter in results.adapters.items():
        dose, calibrated = adapter["dose"], adapter["dose"]["budget_reached"] is not None
        rows.append({"method": name, "seed": seed, "calibrated": calibrated, **dose})
    columns = {"Method": method, "Seed": show("seed", str), "KL at +c / −c": cost}
    return build(rows, columns | {"Raw +c / −c": raw})
