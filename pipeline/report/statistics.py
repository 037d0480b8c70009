"""The report's tables of the further statistics: sensitivity, differences, NLL budget, answers,
flips, shape of the curve.
"""

import polars as pl

from pipeline.report.figures.words import (
    bracket,
    coefficient,
    has_dose,
    name_of,
    nearest_to_one,
    number,
    p_value,
    percent,
)

DOSES = {"unit": "±1", "equal_cost": "equal cost"}


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
        return number(value, sign="+") + ("*" if p < 0.05 else "")

    return pl.DataFrame([
        {"Method": name_of(method), **{name_of(other): cell(method, other) for other in methods}} for method in methods
    ])  # fmt: skip


def dosed_rows(rows: pl.DataFrame) -> list[dict]:
    """Return the rows with their `dose` in words, and one row alone for a method whose coefficient
    has no size.
    """
    kept = [
        row for row in rows.to_dicts() if has_dose(row["method"]) or row["dose"] == "equal_cost"
    ]
    return [
        row | {"dose": DOSES[row["dose"]] if has_dose(row["method"]) else "no dose"} for row in kept
    ]


def sensitivity_table(rows: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([
        {
            "Method": name_of(row["method"]),
            "Dose": row["dose"],
            "Slope (nats per dose)": number(row["slope_clustered"]),
            "p clustered": p_value(row["p_clustered"]),
            "p sign flips": p_value(row["p_permutation"]),
            "p mixed": row["mixed_note"] or p_value(row["p_mixed"]),
            "p dilemma and seed": p_value(row["p_two_way"]),
            "its degrees of freedom": number(row["df_two_way"], 0),
            "p pooled": p_value(row["p_pooled"]),
        }
        for row in dosed_rows(rows)
    ])  # fmt: skip


def nll_budget_table(rows: pl.DataFrame) -> pl.DataFrame:
    """A row per method: half the span, both arms with the coefficient there, or why the budget is
    not reached.
    """
    arms = {(row["method"], row["arm"]): row for row in rows.to_dicts()}
    found = []
    for method in dict.fromkeys(rows["method"]):
        both, up, down = (arms[method, arm] for arm in ("both", "+", "-"))
        found.append({
            "Method": name_of(method),
            "Effect": number(both["effect"]),
            "95 % interval": bracket(both["ci_low"], both["ci_high"]),
            "at +c": number(up["effect"]),
            "c": number(up["coefficient"], 2),
            "at −c": number(down["effect"]),
            "−c": number(None if down["coefficient"] is None else -down["coefficient"], 2),
            "Why not": why_not(both["reason"], up["reason"], down["reason"]),
        })  # fmt: skip
    return pl.DataFrame(found)


def why_not(both: str | None, up: str | None, down: str | None) -> str:
    """Return what the arms say, once if they say the same; what only their half span lacks, if
    neither lacks anything.
    """
    said = {"+c": up, "−c": down} if up or down else {"": both}
    reasons = {arm: reason.replace("delta", "Δ") for arm, reason in said.items() if reason}
    if len(reasons) == 2 and len(set(reasons.values())) == 1:
        reasons = {"": next(iter(reasons.values()))}
    return "; ".join(f"{arm}: {reason}" if arm else reason for arm, reason in reasons.items())


def answers_table(rows: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([
        {
            "Method": "base model" if row["method"] == "base" else name_of(row["method"]),
            "c": coefficient(row["coefficient"]),
            "Yes-bias (nats)": number(row["yes_log_odds"], 2),
            "its change": number(row["yes_shift"], 2, "+"),
            "Yes (%)": percent(row["yes_rate"]),
            "Consistent (%)": percent(row["swap_consistency"]),
            "Choice mass": number(row["choice_mass"]),
            "Rows": str(row["n_rows"]),
            "Excluded": str(row["n_excluded"]),
            "Effect": number(row["target_effect"]),
            "Effect without them": number(row["target_effect_answered"]),
        }
        for row in rows.to_dicts()
    ])  # fmt: skip


def flips_table(rows: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame([
        {
            "Method": name_of(row["method"]),
            "Dose": row["dose"],
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
        for row in dosed_rows(rows)
    ])  # fmt: skip


def curves_table(rows: pl.DataFrame, arms: pl.DataFrame) -> pl.DataFrame:
    """The shape over all coefficients, beside the asymmetry of the arms at ±1 (or nearest)."""
    unit = {
        row["method"]: row
        for row in arms.filter(pl.col("coefficient") == nearest_to_one(arms)).to_dicts()
    }
    return pl.DataFrame([
        {
            "Method": name_of(row["method"]),
            "Coefficients": str(row["n_coefficients"]),
            "Monotone (%)": percent(row["monotone"]),
            "Spearman of the mean": number(row["spearman"], 2),
            "Asymmetry at ±1": number(unit[row["method"]]["asymmetry"], sign="+"),
            "95 % interval": bracket(unit[row["method"]]["asymmetry_low"], unit[row["method"]]["asymmetry_high"]),
            "Slope on symlog(c)": number(row["symlog_slope"], 3),
            "p": p_value(row["symlog_p"]),
            "R²": number(row["r2"], 2),
            "Valid (%)": percent(row["valid"]),
        }
        for row in rows.to_dicts()
    ])  # fmt: skip


def statistics_tables(read: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """Return the tables of the further statistics, from the CSV files of the effects by name."""
    return {
        "differences": differences_table(read["differences"]),
        "sensitivity": sensitivity_table(read["sensitivity"]),
        "nll_budget": nll_budget_table(read["nll_budget"]),
        "answers": answers_table(read["answers"]),
        "flips": flips_table(read["flips"]),
        "curves": curves_table(read["curves"], read["arms"]),
    }
