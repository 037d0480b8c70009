"""The report's tables: frames of figures in, frames of strings out."""

import polars as pl

from pipeline.schemas import MEAN
from pipeline.steering import METHODS

NAMES = {
    "innerpissa": "InnerPiSSA",
    "antipasto": "AntiPaSTO",
    "lora": "LoRA",
    "dora": "DoRA",
    "prompting": "prompting",
    "mean_diff": "mean difference",
    "pca": "PCA",
    "s_space": "S-space",
    "gradient": "gradient direction",
    "random": "random directions",
}


def parent(method: str) -> str:
    """Return the method whose variant an id is by its name: the longest method id that it begins with, or itself."""
    return max((name for name in METHODS if method == name or method.startswith(f"{name}_")), key=len, default=method)


def name_of(method: str) -> str:
    """Return a method's or a variant's name in words."""
    root = parent(method)
    words = method.removeprefix(root).strip("_").replace("_", " ")
    return NAMES.get(root, root) + (f", {words}" if words else "")


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def p_value(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def interval(row: dict) -> str:
    return f"[{row['ci_low']:.3f}, {row['ci_high']:.3f}]"


def title(row: dict) -> str:
    mark = "" if row["coherent"] else " †"
    return name_of(row["method"]) + mark


def dose(row: dict) -> str:
    """Return the coefficient of a row of `arms`, or the calibrated one of a row of `equal_cost`."""
    if "used" not in row:
        return f"±{row['coefficient']:g}"
    return f"±{row['used']:.2g} (equal cost)" if row["calibrated"] else f"±{row['used']:g} (no dose)"


def nearest_to_one(arms: pl.DataFrame) -> float:
    return min(arms["coefficient"].abs().unique(), key=lambda c: (abs(c - 1), c))


def source_table(arms: pl.DataFrame, equal: pl.DataFrame, behaviour: str) -> pl.DataFrame:
    """The published README's results table in its own layout, at ±1 and at equal cost, best normalized gain first."""
    target = "Truth" if behaviour == "honesty" else behaviour
    rows = arms.filter(pl.col("coefficient") == nearest_to_one(arms)).to_dicts() + equal.filter("calibrated").to_dicts()
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
    """Every method at the dose that costs the budget on the calibration pairs, best effect first."""
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
            "Dilemmas": str(row["n_dilemmas"]),
        }
        for row in arms.to_dicts()
    ])  # fmt: skip


def seeds_table(effects: pl.DataFrame) -> pl.DataFrame:
    """The effect at ±1 (or nearest) of every seed's own adapter: how far seeds differ."""
    single = effects.filter(pl.col("seed") != MEAN)
    rows = single.filter(pl.col("coefficient").abs() == nearest_to_one(single)).sort("method", "seed", "coefficient").to_dicts()
    return pl.DataFrame([
        {"Method": title(row), "Seed": row["seed"], "c": f"{row['coefficient']:+g}", "Effect": number(row["target_effect"]),
         "95 % interval": interval(row), "Δ NLL": number(row["delta_nll"]), "Side effects": number(row["side_effect"])}
        for row in rows
    ])  # fmt: skip


def half_changes(values: pl.DataFrame, coefficient: float) -> pl.DataFrame:
    """Return method, label, `half` the change of the label's score from −c to +c, its q and n_items."""
    half = (pl.col("coefficient").sign() * pl.col("change")).sum() / 2
    return (
        values.filter(pl.col("coefficient").abs() == coefficient)
        .group_by("method", "label", maintain_order=True)
        .agg(half.alias("half"), pl.col("q").first(), pl.col("n_items").first())
    )


def values_table(values: pl.DataFrame, coefficient: float) -> pl.DataFrame:
    """The change of every value from −c to +c, a column per method; * where q < 0.05 over the non-target values."""
    rows = half_changes(values, coefficient).with_columns(pl.col("method").map_elements(name_of, pl.String))
    shown = rows.with_columns(
        pl.struct("half", "q").map_elements(lambda s: f"{s['half']:+.3f}{'*' if (s['q'] or 1) < 0.05 else ''}", pl.String)
    )
    wide = shown.pivot("method", index=["label", "n_items"], values="half").sort("label")
    return wide.rename({"label": "Value", "n_items": "Items"}).with_columns(pl.col("Items").cast(pl.String))
