"""The report's main tables: frames of numbers in, frames of strings out."""

import polars as pl

from pipeline.report.figures.words import (
    in_order,
    interval,
    name_of,
    nearest_to_one,
    number,
    p_value,
    title,
)
from pipeline.support.schemas import MEAN


def dose(row: dict) -> str:
    """Return the coefficient of a row of `arms`, or the calibrated one of a row of `equal_cost`."""
    if "used" not in row:
        return f"±{row['coefficient']:g}"
    return (
        f"±{row['used']:.2g} (equal cost)" if row["calibrated"] else f"±{row['used']:g} (no dose)"
    )


def source_table(arms: pl.DataFrame, equal: pl.DataFrame, behaviour: str) -> pl.DataFrame:
    """The published README's results table in its own layout, at ±1 and at equal cost, best
    normalized gain first.
    """
    target = "Truth" if behaviour == "honesty" else behaviour
    rows = (
        arms.filter(pl.col("coefficient") == nearest_to_one(arms)).to_dicts()
        + equal.filter("calibrated").to_dicts()
    )
    return pl.DataFrame([
        {
            "Method": title(row),
            "Coeff": dose(row),
            f"Target Effect (Δ {target} ↑)": number(row["target_effect"]),
            "Side Effects (Δ Other ↓)": number(row["side_effect"]),
            "p-value": p_value(row["p_clustered"]),
            "Output Quality (Δ NLL ↓)": number(row["delta_nll"]),
            "Normalized Gain (%)": number(row["normalized_gain"], 2),
        }
        for row in sorted(rows, key=lambda row: -row["normalized_gain"])
    ])  # fmt: skip


def equal_cost_table(equal: pl.DataFrame) -> pl.DataFrame:
    """Every method at the dose that costs the budget on the calibration pairs, best effect
    first.
    """
    return pl.DataFrame([
        {
            "Method": title(row),
            "c (mean over seeds)": f"{row['used']:.2f}" if row["calibrated"] else "no dose",
            "Effect": number(row["target_effect"]),
            "95 % interval": interval(row),
            "at +c": number(row["up"]),
            "at −c": number(row["down"]),
            "SD over seeds": number(row["seed_sd"]),
            "p (clustered)": p_value(row["p_clustered"]),
            "Side effects": number(row["side_effect"]),
            "Δ NLL": number(row["delta_nll"]),
            "Share of oracle": number(row["oracle_share"], 2),
        }
        for row in equal.sort("target_effect", descending=True).to_dicts()
    ])  # fmt: skip


def full_table(arms: pl.DataFrame) -> pl.DataFrame:
    """Both arms, interval, both p-values, share of the oracle, and n."""
    return pl.DataFrame([
        {
            "Method": title(row),
            "±c": f"{row['coefficient']:g}",
            "Effect": number(row["target_effect"]),
            "95 % interval": interval(row),
            "at +c": number(row["up"]),
            "at −c": number(row["down"]),
            "p (clustered)": p_value(row["p_clustered"]),
            "p (pooled)": p_value(row["p_pooled"]),
            "Slope (nats)": number(row["slope_clustered"], 2),
            "Side effects": number(row["side_effect"]),
            "Δ NLL": number(row["delta_nll"]),
            "Gain (%)": number(row["normalized_gain"], 1),
            "Choice mass": number(row["choice_mass"]),
            "Share of oracle": number(row["oracle_share"], 2),
            "Seeds": str(row["n_seeds"]),
            "SD over seeds": number(row["seed_sd"]),
            "n": str(row["n_dilemmas"]),
        }
        for row in arms.to_dicts()
    ])  # fmt: skip


def seeds_table(effects: pl.DataFrame) -> pl.DataFrame:
    """The effect of every seed's own adapter at ±1 (or nearest): how far seeds differ; methods with
    one seed are left out.
    """
    single = effects.filter(pl.col("seed") != MEAN)
    at = single.filter(pl.col("coefficient").abs() == nearest_to_one(single))
    cells = {(row["method"], row["seed"], row["coefficient"] > 0): row for row in at.to_dicts()}
    seeds = {
        method: list(dict.fromkeys(at.filter(pl.col("method") == method)["seed"]))
        for method in in_order([*at["method"]])
    }
    rows = []
    for method, own in seeds.items():
        for seed in own if len(own) > 1 else []:
            up, down = cells[method, seed, True], cells[method, seed, False]
            rows.append({
                "Method": name_of(method), "Seed": seed, "Effect": number((up["target_effect"] - down["target_effect"]) / 2),
                "at +c": number(up["target_effect"]), "95 % interval at +c": interval(up),
                "at −c": number(down["target_effect"]), "95 % interval at −c": interval(down),
                "Side effects": number((up["side_effect"] + down["side_effect"]) / 2),
                "Δ NLL": number((up["delta_nll"] + down["delta_nll"]) / 2),
            })  # fmt: skip
    return pl.DataFrame(rows)


def half_changes(values: pl.DataFrame, coefficient: float) -> pl.DataFrame:
    """Return method, label, `half` the change of the label's score from −c to +c, its q and
    n_items.
    """
    half = (pl.col("coefficient").sign() * pl.col("change")).sum() / 2
    return (
        values.filter(pl.col("coefficient").abs() == coefficient)
        .group_by("method", "label", maintain_order=True)
        .agg(half.alias("half"), pl.col("q").first(), pl.col("n_items").first())
    )


def short_labels(labels: list[str]) -> dict[str, str]:
    """Return label -> its words, without the framework where all labels share one."""
    shared = len({label.partition("/")[0] for label in labels}) == 1
    return {label: label.partition("/")[2] if shared else label for label in labels}


def values_table(values: pl.DataFrame, coefficient: float, target: str) -> pl.DataFrame:
    """The change of every value from −c to +c, the target first, a column per method; * where q <
    0.05.
    """
    halves = half_changes(values, coefficient)
    cell = {(row["method"], row["label"]): row for row in halves.to_dicts()}
    items = {row["label"]: row["n_items"] for row in halves.to_dicts()}
    words = short_labels(list(items))

    def shown(method: str, label: str) -> str:
        row = cell[method, label]
        return number(row["half"], sign="+") + (
            "*" if row["q"] is not None and row["q"] < 0.05 else ""
        )

    methods = in_order(values["method"].to_list())
    return pl.DataFrame([
        {"Value": words[label], "Items": str(items[label]), **{name_of(m): shown(m, label) for m in methods}}
        for label in sorted(items, key=lambda label: (label != target, label))
    ])  # fmt: skip
