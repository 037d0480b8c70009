"""The report's tables of the further statistics, each from its CSV file."""

import itertools

import polars as pl

from pipeline.metrics.regression import ALPHA
from pipeline.metrics.scores import at_one, in_both, renaming
from pipeline.report import columns
from pipeline.report.columns import Cell, Columns, Row, build, digits, method, show
from pipeline.report.figures.words import name_of
from pipeline.report.results import Results
from pipeline.support.formats import NONE, coefficient, p_value, percent, with_sign
from pipeline.support.paths import BASE

SENSITIVITY: Columns = {
    "Method": method,
    "Slope (nats)": show("slope_clustered"),
    "p clustered": show("p_clustered", p_value),
    "p sign flips": show("p_permutation", p_value),
    "p mixed": lambda row: row["mixed_note"] or p_value(row["p_mixed"]),
    "p dilemma and seed": show("p_two_way", p_value),
    "its degrees of freedom": show("df_two_way", digits(0)),
    "p pooled": show("p_pooled", p_value),
}
AT_BUDGET: Columns = {
    "Effect": show("effect"),
    "95 % interval": columns.interval(),
    "at +c": show("effect_up"),
    "at −c": show("effect_down"),
}
NLL_BUDGET: Columns = {
    "c": show("coefficient_up", digits(2)),
    "−c": show("coefficient_down", lambda c: digits(2)(-c)),
    "Why not": lambda row: why_not(row["reason"], row["reason_up"], row["reason_down"]),
}
ANSWERS: Columns = {
    "Method": lambda row: "base model" if row["method"] == BASE else method(row),
    "c": show("coefficient", coefficient),
    "Yes-bias (nats)": show("yes_log_odds", digits(2)),
    "its change": show("yes_shift", digits(2, "+")),
    "Yes (%)": show("yes_rate", percent),
    "Consistent (%)": show("swap_consistency", percent),
    "Choice mass": show("choice_mass"),
    "Rows": show("n_rows", str),
    "Excluded": show("n_excluded", str),
}
ANSWERED: Columns = {
    "Effect": show("target_effect"),
    "Effect without them": show("target_effect_answered"),
}
FLIPS: Columns = {
    "Method": method,
    "Steering F1": show("steering_f1", digits(1)),
    "SD over seeds": show("steering_f1_sd", digits(1)),
    "Fixed (%, weighted)": show("fixed", percent),
    "Broken": show("broken", percent),
    "Off target": show("off_target", percent),
    "Flips −c to +c (%)": show("flips", percent),
    "of these the right way": show("right_way", percent),
    "Flips off target": show("off_target_flips", percent),
    "Focus": show("focus", digits(2)),
}
CONTROLS: Columns = {"Controls moved (nats)": show("control_change")}
ASYMMETRY: Columns = {
    "Asymmetry at ±1": show("asymmetry", with_sign),
    "95 % interval": columns.interval("asymmetry_low", "asymmetry_high"),
}
CURVES: Columns = {
    "Coefficients": show("n_coefficients", str),
    "Monotone (%)": show("monotone", percent),
    "Spearman of the mean": show("spearman", digits(2)),
    "Slope on symlog(c)": show("symlog_slope"),
    "p": show("symlog_p", p_value),
    "R²": show("r2", digits(2)),
    "Valid (%)": show("valid", percent),
}


def sensitivity(results: Results) -> pl.DataFrame:
    return build(results.tables["sensitivity"], SENSITIVITY)


def flips(results: Results) -> pl.DataFrame:
    rows = results.tables["flips"]
    return build(rows, FLIPS | (CONTROLS if rows["control_change"].count() else {}))


def answers(results: Results) -> pl.DataFrame:
    effects = columns.twice(ANSWERED, results.log_odds_first)
    return build(results.tables["answers"], ANSWERS | effects)


def curves(results: Results) -> pl.DataFrame:
    """The shape over all coefficients, beside the asymmetry of the arms at ±1 (or nearest)."""
    arms = at_one(results.tables["arms"]).select("method", pl.col("^asymmetry.*$"))
    rows = results.tables["curves"].join(arms, on="method", maintain_order="left")
    asymmetry = columns.twice(ASYMMETRY, results.log_odds_first)
    return build(rows, {"Method": method} | asymmetry | CURVES)


def differences(results: Results) -> pl.DataFrame:
    """A square of all methods at ±1: row less column."""
    rows = results.tables["differences"]
    own = {(row["method"], row["other"]): row for row in rows.to_dicts()}
    own |= {
        (other, name): row | {key: -row[key] for key in in_both("difference")}
        for (name, other), row in own.items()
    }
    methods = list(dict.fromkeys(itertools.chain(*rows.select("method", "other").rows())))

    def marked(row: Row) -> str:
        return with_sign(row["difference"]) + "*" * (row["p_holm"] < ALPHA)

    write = columns.pair(marked, results.log_odds_first)

    def less(other: str) -> Cell:
        return lambda row: NONE if row["method"] == other else write(own[row["method"], other])

    others = {name_of(other): less(other) for other in methods}
    return build([{"method": name} for name in methods], {"Method": method} | others)


def nll_budget(results: Results) -> pl.DataFrame:
    """A row per method: half the span, both arms with the c there, or why there is none."""
    rows = results.tables["nll_budget"]
    both = rows.filter(arm="both")
    for arm, sign in (("up", "+"), ("down", "-")):
        names = renaming(effect=f"effect_{arm}")
        names |= {"coefficient": f"coefficient_{arm}", "reason": f"reason_{arm}"}
        own = rows.filter(arm=sign).select("method", *names).rename(names)
        both = both.join(own, on="method", maintain_order="left")
    effects = columns.twice(AT_BUDGET, results.log_odds_first)
    return build(both, {"Method": method} | effects | NLL_BUDGET)


def why_not(both: str | None, up: str | None, down: str | None) -> str:
    """Return what the arms say, once if they say the same; else what their half span lacks."""
    arms = {"+c": up, "−c": down} if up or down else {"": both}
    reasons = {arm: reason.replace("delta", "Δ") for arm, reason in arms.items() if reason}
    if len(reasons) == 2 and len(set(reasons.values())) == 1:
        reasons = {"": reasons["+c"]}
    return "; ".join(f"{arm}: {reason}" if arm else reason for arm, reason in reasons.items())
