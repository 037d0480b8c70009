"""The effect where the rise of the NLL on the dilemmas themselves reaches a budget, read off the
measured doses.
"""

from typing import Any

import numpy as np
import polars as pl

from pipeline.metrics.effects import mean_over_seeds, movements, with_base
from pipeline.metrics.question import Question
from pipeline.support.schemas import CALIBRATED, RAW

REACHED = 0.95  # of the resamples: with fewer there is no 95 % interval
SCHEMA = {"method": pl.String, "arm": pl.String, "budget": pl.Float64} | dict.fromkeys(
    ("effect", "ci_low", "ci_high", "coefficient", "reached"), pl.Float64
)  # fmt: skip
SCHEMA |= {"reason": pl.String}


def at_budget(costs: np.ndarray, values: np.ndarray, budget: float) -> np.ndarray:
    """Return values [..., d] where costs [..., d] first reach the budget on the way along d; NaN
    where they never do.

    Both start at dose 0 with cost 0. Between two doses both are taken as straight lines, so value
    is monotone in cost there; nothing is extrapolated.
    """
    above = costs >= budget
    after = np.where(above.any(-1), above.argmax(-1), 1)[..., None]
    low, high = (np.take_along_axis(costs, index, -1)[..., 0] for index in (after - 1, after))
    start, end = (np.take_along_axis(values, index, -1)[..., 0] for index in (after - 1, after))
    with np.errstate(divide="ignore", invalid="ignore"):
        between = start + (budget - low) / (high - low) * (end - start)
    return np.where(above.any(-1), between, np.nan)


def sums_by_dilemma(
    frame: pl.DataFrame, column: str, dilemmas: list[str], doses: list[float]
) -> np.ndarray:
    """Return sums over a dilemma's items [g, d], 0 where it has none."""
    rows = frame["dilemma_id"].replace_strict(dilemmas, range(len(dilemmas))).to_numpy()
    columns = frame["coefficient"].replace_strict(doses, range(len(doses))).to_numpy()
    shape = len(dilemmas), len(doses)
    return np.bincount(
        rows * shape[1] + columns, frame[column].to_numpy(), minlength=shape[0] * shape[1]
    ).reshape(shape)


def arm_curves(
    scores: pl.DataFrame, question: Question, sign: int, weights: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Return |c| [d], and delta NLL and effect [b, d] of one arm, for dilemmas weighted by
    `weights` [b, g].
    """
    whole = with_base(mean_over_seeds(scores), question.base)
    arm = whole.filter(pl.col("coefficient") * sign >= 0)
    doses = sorted(arm["coefficient"].unique(), key=abs)
    moved = movements(arm, question.items, question.target).with_columns(pl.lit(1).alias("one"))
    dilemmas = question.base["dilemma_id"].unique(maintain_order=True).to_list()
    nll, count, effect, concerned = (
        weights @ sums_by_dilemma(frame, column, dilemmas, doses)
        for frame, column in (
            (arm, "nll"),
            (arm.with_columns(pl.lit(1).alias("one")), "one"),
            (moved, "effect"),
            (moved, "one"),
        )
    )
    costs = nll / count
    with np.errstate(
        invalid="ignore"
    ):  # a resample of a small study may hold no dilemma of the target: it reaches nothing
        return np.abs(doses), costs - costs[:, :1], effect / concerned


def budget_table(cells: dict[str, pl.DataFrame], question: Question) -> pl.DataFrame:
    """Return three rows per method: the effect on each arm, and half their span, where delta NLL
    reaches the budget.

    Percentile bootstrap over all dilemmas, which carries the noise of the cost too. `reached` is
    the share of resamples whose measured doses reach the budget; an effect or interval that they do
    not give is null, and `reason` says why.
    """
    params = question.params
    n_dilemmas = question.base["dilemma_id"].n_unique()
    rng = np.random.default_rng(params.seed)
    drawn = rng.multinomial(
        n_dilemmas, np.full(n_dilemmas, 1 / n_dilemmas), size=params.bootstrap
    ).astype(float)
    weights = np.vstack([np.ones(n_dilemmas), drawn])  # the first row is the sample itself
    records: list[dict[str, Any]] = []
    for method, scores in cells.items():
        about = {"method": method, "budget": params.nll_budget}
        if not (scores["dose"] == CALIBRATED).any():
            records += [
                about | {"arm": arm, "reason": "the coefficient has no size"}
                for arm in ("+", "-", "both")
            ]
            continue
        raw, found = scores.filter(pl.col("dose") == RAW), {}
        for arm, sign in (("+", 1), ("-", -1)):
            sizes, costs, effects = arm_curves(raw, question, sign, weights)
            found[arm] = at_budget(costs, effects, params.nll_budget)
            used = at_budget(costs[0], sizes, params.nll_budget)
            short = (
                f"delta NLL is {costs[0].max():.3f} at most" if np.isnan(found[arm][0]) else None
            )
            records.append(
                about
                | {
                    "arm": arm,
                    "coefficient": None if short else float(used),
                    **summary(found[arm], short),
                }
            )
        half = (found["+"] - found["-"]) / 2
        records.append(
            about
            | {
                "arm": "both",
                **summary(half, "an arm does not reach it" if np.isnan(half[0]) else None),
            }
        )
    return pl.DataFrame(records, schema=SCHEMA)


def summary(values: np.ndarray, reason: str | None) -> dict[str, Any]:
    """Return the effect of the sample (first) and the interval of the resamples (rest)."""
    drawn = values[1:][~np.isnan(values[1:])]
    reached = len(drawn) / (len(values) - 1)
    if reason is not None:
        return {"reached": reached, "reason": reason}
    if reached < REACHED:
        return {
            "effect": float(values[0]),
            "reached": reached,
            "reason": "too few resamples reach it for an interval",
        }
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {
        "effect": float(values[0]),
        "ci_low": float(low),
        "ci_high": float(high),
        "reached": reached,
    }
