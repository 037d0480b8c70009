"""The report's tables of the further statistics: sensitivity, differences, NLL budget, answers, flips, shape of the curve."""

import polars as pl

from pipeline.tables import name_of, nearest_to_one, number, p_value

DOSES = {"unit": "±1", "equal_cost": "equal cost"}


# The report's heading and note for each table.
def p_or_dash(value: float | None) -> str:
    return "–" if value is None else p_value(value)


def bracket(low: float | None, high: float | None) -> str:
    return "–" if low is None or high is None else f"[{low:.3f}, {high:.3f}]"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def differences_table(differences: pl.DataFrame) -> pl.DataFrame:
    """A square of all methods at equal cost: row less column."""
    rows = differences.filter(pl.col("dose") == "equal_cost").to_dicts()
    cells = {(row["method"], row["other"]): (row["difference"], row["p_holm"]) for row in rows}
    cells |= {(other, method): (-value, p) for (method, other), (value, p) in cells.items()}
    methods = list(dict.fromkeys([name for row in rows for name in (row["method"], row["other"])]))

    def cell(method: str, other: str) -> str:
        if method == other:
            return "–"
        value, p = cells[method, other]
        return f"{value:+.3f}{'*' if p < 0.05 else ''}"

    return pl.DataFrame([
        {"Method": name_of(method), **{name_of(other): cell(method, other) for other in methods}} for method in methods
    ])  # fmt: skip


def sensitivity_table(rows: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([
        {
            "Method": name_of(row["method"]),
            "Dose": DOSES[row["dose"]],
            "Slope (nats per dose)": number(row["slope_clustered"]),
            "p clustered": p_value(row["p_clustered"]),
            "p sign flips": p_value(row["p_permutation"]),
            "p mixed": p_or_dash(row["p_mixed"]),
            "mixed model": row["mixed_note"] or "",
            "p dilemma and seed": p_or_dash(row["p_two_way"]),
            "its degrees": "–" if row["df_two_way"] is None else f"{row['df_two_way']:.0f}",
            "p pooled": p_value(row["p_pooled"]),
        }
        for row in rows.to_dicts()
    ])  # fmt: skip


def nll_budget_table(rows: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([
        {
            "Method": name_of(row["method"]),
            "Arm": {"both": "half the span", "-": "−"}.get(row["arm"], row["arm"]),
            "Δ NLL budget": f"{row['budget']:g}",
            "Effect": number(row["effect"]),
            "95 % interval": bracket(row["ci_low"], row["ci_high"]),
            "c there": number(row["coefficient"], 2),
            "Why not": row["reason"] or "",
        }
        for row in rows.to_dicts()
    ])  # fmt: skip


def answers_table(rows: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([
        {
            "Method": "base model" if row["method"] == "base" else name_of(row["method"]),
            "c": f"{row['coefficient']:+g}",
            "Yes-bias (nats)": number(row["yes_log_odds"], 2),
            "its shift": f"{row['yes_shift']:+.2f}",
            "Yes (%)": percent(row["yes_rate"]),
            "Consistent (%)": percent(row["swap_consistency"]),
            "Choice mass": number(row["choice_mass"]),
            "Rows": str(row["n_rows"]),
            "Excluded": str(row["n_excluded"]),
            "Effect": number(row["target_effect"]),
            "Effect without these": number(row["target_effect_answered"]),
        }
        for row in rows.to_dicts()
    ])  # fmt: skip


def flips_table(rows: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([
        {
            "Method": name_of(row["method"]),
            "Dose": DOSES[row["dose"]],
            "Steering F1": number(row["steering_f1"], 1),
            "SD over seeds": number(row["steering_f1_sd"], 1),
            "Fixed (%, weighted)": percent(row["fixed"]),
            "Broken": percent(row["broken"]),
            "Off target": percent(row["off_target"]),
            "Flips −c to +c (%)": percent(row["flips"]),
            "of these the right way": percent(row["right_way"]),
            "Flips off target": percent(row["off_target_flips"]),
            "Focus": number(row["focus"], 2),
        }
        for row in rows.to_dicts()
    ])  # fmt: skip


def curves_table(rows: pl.DataFrame, arms: pl.DataFrame) -> pl.DataFrame:
    """The shape over all coefficients, beside the asymmetry of the arms at ±1 (or nearest)."""
    unit = {row["method"]: row for row in arms.filter(pl.col("coefficient") == nearest_to_one(arms)).to_dicts()}
    return pl.DataFrame([
        {
            "Method": name_of(row["method"]),
            "Coefficients": str(row["n_coefficients"]),
            "Monotone (%)": percent(row["monotone"]),
            "Spearman of the mean": number(row["spearman"], 2),
            "Asymmetry at ±1": f"{unit[row['method']]['asymmetry']:+.3f}",
            "95 % interval": bracket(unit[row["method"]]["asymmetry_low"], unit[row["method"]]["asymmetry_high"]),
            "Slope on symlog(c)": number(row["symlog_slope"], 3),
            "p": p_value(row["symlog_p"]),
            "R²": number(row["r2"], 2),
            "Valid (%)": percent(row["valid"]),
        }
        for row in rows.to_dicts()
    ])  # fmt: skip


def statistics_tables(read: dict[str, pl.DataFrame], arms: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the tables of the further statistics, from the CSV files of the effects by name."""
    return {
        "differences_table": differences_table(read["differences"]),
        "sensitivity_table": sensitivity_table(read["sensitivity"]),
        "nll_budget_table": nll_budget_table(read["nll_budget"]),
        "answers_table": answers_table(read["answers"]),
        "flips_table": flips_table(read["flips"]),
        "curves_table": curves_table(read["curves"], arms),
    }
