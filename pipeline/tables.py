"""The report's tables, as Markdown, CSV, LaTeX and HTML from one frame of strings."""

import html
from pathlib import Path

import polars as pl

from pipeline.files import new_file
from pipeline.schemas import MEAN

NAMES = {
    "innerpissa": "InnerPiSSA (learned)",
    "prompting": "prompting",
    "mean_diff": "mean difference",
    "pca": "PCA",
    "random": "random directions",
}


def number(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def p_value(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def interval(row: dict) -> str:
    return f"[{row['ci_low']:.3f}, {row['ci_high']:.3f}]"


def title(row: dict) -> str:
    mark = "" if row["coherent"] else " †"
    return NAMES.get(row["method"], row["method"]) + mark


def source_table(arms: pl.DataFrame, behaviour: str) -> pl.DataFrame:
    """The published README's results table in its own layout, best normalized gain first."""
    target = "Truth" if behaviour == "honesty" else behaviour
    return pl.DataFrame([
        {
            "Method": title(row),
            "Coeff": f"±{row['coefficient']:g}",
            f"Target Effect (Δ {target} ↑)": number(row["target_effect"]),
            "Side Effects (Δ Other ↓)": number(row["side_effect"]),
            "p-value": p_value(row["p_clustered"]),
            "Output Quality (Δ NLL ↓)": number(row["delta_nll"]),
            "Normalized Gain (%)": number(row["normalized_gain"], 2),
        }
        for row in arms.sort("normalized_gain", descending=True).to_dicts()
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
    nearest = single["coefficient"].abs().unique().to_list()
    one = min(nearest, key=lambda c: abs(c - 1))
    rows = single.filter(pl.col("coefficient").abs() == one).sort("method", "seed", "coefficient").to_dicts()
    return pl.DataFrame([
        {"Method": title(row), "Seed": row["seed"], "c": f"{row['coefficient']:+g}", "Effect": number(row["target_effect"]),
         "95 % interval": interval(row), "Δ NLL": number(row["delta_nll"]), "Side effects": number(row["side_effect"])}
        for row in rows
    ])  # fmt: skip


def values_table(values: pl.DataFrame, coefficient: float) -> pl.DataFrame:
    """The change of every value from −c to +c, a column per method; * where q < 0.05 over the non-target values."""
    pair = values.filter(pl.col("coefficient").abs() == coefficient)
    half = (pl.col("coefficient").sign() * pl.col("change")).sum() / 2
    rows = pair.group_by("method", "label", maintain_order=True).agg(
        half.alias("half"), pl.col("q").first(), pl.col("n_items").first()
    )
    shown = rows.with_columns(
        pl.struct("half", "q").map_elements(lambda s: f"{s['half']:+.3f}{'*' if (s['q'] or 1) < 0.05 else ''}", pl.String)
    )
    wide = shown.pivot("method", index=["label", "n_items"], values="half").sort("label")
    return wide.rename({"label": "Value", "n_items": "Items"}).with_columns(pl.col("Items").cast(pl.String))


def markdown(table: pl.DataFrame) -> str:
    lines = [
        "| " + " | ".join(table.columns) + " |",
        "|" + "|".join(":--" if i == 0 else "--:" for i in range(table.width)) + "|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in table.rows()]
    return "\n".join(lines) + "\n"


def latex(table: pl.DataFrame) -> str:
    symbols = {"&": r"\&", "%": r"\%", "_": r"\_", "±": r"$\pm$", "Δ": r"$\Delta$", "↑": r"$\uparrow$", "↓": r"$\downarrow$",
               "†": r"$\dagger$", "−": "$-$", "–": "--", "<": "$<$"}  # fmt: skip

    def cell(text: str) -> str:
        return "".join(symbols.get(letter, letter) for letter in text)

    rows = [" & ".join(map(cell, row)) + r" \\" for row in table.rows()]
    head = " & ".join(map(cell, table.columns)) + r" \\"
    return "\n".join(
        [rf"\begin{{tabular}}{{l{'r' * (table.width - 1)}}}", r"\hline", head, r"\hline", *rows, r"\hline", r"\end{tabular}", ""]
    )


def as_html(table: pl.DataFrame) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in table.columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows())
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def write_table(folder: Path, name: str, table: pl.DataFrame) -> None:
    for ending, text in {"md": markdown(table), "tex": latex(table), "csv": table.write_csv()}.items():
        with new_file(folder / f"{name}.{ending}") as file:
            file.write_text(text)
