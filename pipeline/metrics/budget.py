"""The effect where the rise of the NLL on the dilemmas themselves reaches a budget."""

from typing import Any

import numpy as np
import polars as pl

from pipeline.metrics.scores import SUFFIXES, Evaluation, in_both, movements
from pipeline.support.schemas import numbers, texts

REACHED = 0.95  # of the resamples: with fewer there is no 95 % interval
NUMBERS = numbers("budget", *in_both("effect", "ci_low", "ci_high"), "coefficient", "reached")
SCHEMA = texts("method", "arm") | NUMBERS | texts("reason")


def at_budget(costs: np.ndarray, values: np.ndarray, budget: float) -> np.ndarray:
    """Return values [..., c] where costs [..., c] first reach the budget; NaN where they never do.

    Value and cost start at 0 and are straight lines between coefficients; nothing is extrapolated.
    """
    above = costs >= budget
    after = np.where(above.any(-1), above.argmax(-1), 1)[..., None]
    low, high, start, end = (
        np.take_along_axis(lines, index, -1)[..., 0]
        for lines in (costs, values)
        for index in (after - 1, after)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        between = start + (budget - low) / (high - low) * (end - start)
    return np.where(above.any(-1), between, np.nan)


def sums_by_dilemma(
    frame: pl.DataFrame, column: str | None, dilemmas: list[str], coefficients: list[float]
) -> np.ndarray:
    """Return sums over a dilemma's items [g, c], 0 where it has none; without a column, counts."""
    shape = len(dilemmas), len(coefficients)
    rows = frame["dilemma_id"].replace_strict(dilemmas, range(shape[0])).to_numpy()
    places = frame["coefficient"].replace_strict(coefficients, range(shape[1])).to_numpy()
    values = frame[column].to_numpy() if column else None
    cells = np.bincount(rows * shape[1] + places, values, minlength=shape[0] * shape[1])
    return cells.reshape(shape)


def arm_curves(
    scores: pl.DataFrame, evaluation: Evaluation, sign: int, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Return |c| [c] of one arm, and its delta NLL and effects [b, c], dilemmas weighted [b, g].

    The effects, in probability and in log-odds, stand by their suffix.
    """
    whole = evaluation.with_base(scores)
    arm = whole.filter(pl.col("coefficient") * sign >= 0)
    coefficients = sorted(arm["coefficient"].unique(), key=abs)
    moved = movements(arm, evaluation.items, evaluation.target)
    dilemmas = evaluation.base["dilemma_id"].unique(maintain_order=True).to_list()

    def average(frame: pl.DataFrame, column: str) -> np.ndarray:
        about = dilemmas, coefficients
        total, count = (weights @ sums_by_dilemma(frame, name, *about) for name in (column, None))
        with np.errstate(invalid="ignore"):  # a resample without the target reaches nothing
            return total / count

    costs = average(arm, "nll")
    effects = {suffix: average(moved, f"effect{suffix}") for suffix in SUFFIXES}
    return np.abs(coefficients), costs - costs[:, :1], effects


def budget_table(cells: dict[str, pl.DataFrame], evaluation: Evaluation) -> pl.DataFrame:
    """Return per method the effect where delta NLL reaches the budget: both arms, half their span.

    It is in probability and in log-odds. Intervals are a percentile bootstrap over all dilemmas,
    which carries the noise of the cost too. `reached`: share of resamples that reach the budget.
    Where they give no effect or interval it is null, and `reason` says why.
    """
    params = evaluation.params
    n = evaluation.base["dilemma_id"].n_unique()
    rng = np.random.default_rng(params.seed)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=params.bootstrap).astype(float)
    weights = np.vstack([np.ones(n), drawn])  # the first row is the sample itself
    records: list[dict[str, Any]] = []
    for method, scores in cells.items():
        sizeless = {"reason": "the coefficient has no size"}
        own = [{"arm": arm} | sizeless for arm in ("+", "-", "both")]
        if method not in evaluation.ungraded:
            own = arm_records(scores, evaluation, weights)
        records += [{"method": method, "budget": params.nll_budget, **record} for record in own]
    return pl.DataFrame(records, schema=SCHEMA)


def arm_records(
    scores: pl.DataFrame, evaluation: Evaluation, weights: np.ndarray
) -> list[dict[str, Any]]:
    budget, at, records = evaluation.params.nll_budget, {}, []
    for arm, sign in (("+", 1), ("-", -1)):
        sizes, costs, effects = arm_curves(scores, evaluation, sign, weights)
        at[arm] = np.stack([at_budget(costs, effects[suffix], budget) for suffix in SUFFIXES])
        short = np.isnan(at[arm][0, 0])
        reason = f"delta NLL is {costs[0].max():.3f} at most" if short else None
        coefficient = None if short else float(at_budget(costs[0], sizes, budget))
        records.append({"arm": arm, "coefficient": coefficient, **summary(at[arm], reason)})
    half = (at["+"] - at["-"]) / 2
    reason = "an arm does not reach it" if np.isnan(half[0, 0]) else None
    return [*records, {"arm": "both", **summary(half, reason)}]


def summary(values: np.ndarray, reason: str | None) -> dict[str, Any]:
    """Return the effects of the sample and the intervals of the resamples.

    `values` [m, b] hold a row per suffix; the first of each row is the sample's own.
    """
    drawn = values[:, 1:][:, ~np.isnan(values[0, 1:])]
    record: dict[str, Any] = {"reached": drawn.shape[1] / (values.shape[1] - 1)}
    if reason is not None:
        return record | {"reason": reason}
    record |= dict(zip(in_both("effect"), map(float, values[:, 0]), strict=True))
    if record["reached"] < REACHED:
        return record | {"reason": "too few resamples reach it for an interval"}
    for suffix, own in zip(SUFFIXES, drawn, strict=True):
        low, high = np.percentile(own, [2.5, 97.5])
        record |= {f"ci_low{suffix}": float(low), f"ci_high{suffix}": float(high)}
    return record
