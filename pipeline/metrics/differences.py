"""Does one method steer further than another? All pairs of methods, paired by dilemma."""

import itertools

import numpy as np
import polars as pl
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pipeline.metrics.regression import cluster_t, with_p
from pipeline.metrics.scores import EQUAL_COST, UNIT, Evaluation, compared, fold_arms

NUMBERS = ("difference", "ci_low", "ci_high", "stderr", "df", "p", "p_holm")
SCHEMA = (
    {"dose": pl.String, "method": pl.String, "other": pl.String, "n_dilemmas": pl.Int64}
    | dict.fromkeys(NUMBERS, pl.Float64)
)  # fmt: skip


def dilemma_effects(rows: pl.DataFrame, evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """Return half the span in every dilemma [g], as a probability, and the dilemmas' sizes [g]."""
    moved = evaluation.movements(rows)
    table = fold_arms(moved, ["dilemma_id"], "effect").sort("dilemma_id")
    return table["effect"].to_numpy(), table["count"].to_numpy()


def difference_table(cells: dict[str, pl.DataFrame], evaluation: Evaluation) -> pl.DataFrame:
    """Return the effect of one method less another's at ±1 and at equal cost, for all pairs.

    Clustered t (CR2) with its 95 % interval, for the seeds that were run. p_holm is adjusted over
    all pairs at one `dose` (unit or equal_cost).
    """
    records = []
    for comparison in (UNIT, EQUAL_COST):
        effects = {
            method: dilemma_effects(compared(scores)[comparison], evaluation)
            for method, scores in cells.items()
        }
        rows = []
        for method, other in itertools.combinations(effects, 2):
            (own, sizes), (theirs, _) = effects[method], effects[other]
            difference, error, degrees = cluster_t(own - theirs, sizes)
            test = with_p(float(difference), float(error), degrees)
            reach = float(stats.t.ppf(0.975, degrees)) * test.stderr
            rows.append({
                "dose": comparison, "method": method, "other": other, "n_dilemmas": len(sizes),
                "difference": test.slope, "ci_low": test.slope - reach,
                "ci_high": test.slope + reach, "stderr": test.stderr, "df": degrees, "p": test.p,
            })  # fmt: skip
        adjusted = multipletests([row["p"] for row in rows], method="holm")[1] if rows else []
        records += [row | {"p_holm": float(p)} for row, p in zip(rows, adjusted, strict=True)]
    return pl.DataFrame(records, schema=SCHEMA)
