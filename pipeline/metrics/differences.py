"""Does one method steer further than another? All differences between two methods, paired by
dilemma.
"""

import itertools

import numpy as np
import polars as pl
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pipeline.metrics.doses import EQUAL_COST, UNIT, compared
from pipeline.metrics.effects import mean_over_seeds, means, movements, with_base
from pipeline.metrics.question import Question
from pipeline.metrics.regression import cluster_t, with_p

SCHEMA = {
    "dose": pl.String,
    "method": pl.String,
    "other": pl.String,
    "n_dilemmas": pl.Int64,
} | dict.fromkeys(("difference", "ci_low", "ci_high", "stderr", "df", "p", "p_holm"), pl.Float64)


def dilemma_effects(rows: pl.DataFrame, question: Question) -> tuple[np.ndarray, np.ndarray]:
    """Return half the span between +dose and -dose in every dilemma [g], as a probability, and the
    dilemmas' sizes [g].
    """
    moved = movements(
        with_base(mean_over_seeds(rows), question.base), question.items, question.target
    )
    halves = moved.filter(pl.col("coefficient") != 0).with_columns(
        pl.col("effect") * pl.col("coefficient").sign()
    )
    table = means(halves, ["dilemma_id"], ["effect"]).sort("dilemma_id")
    return table["effect"].to_numpy(), table["count"].to_numpy()


def difference_table(cells: dict[str, pl.DataFrame], question: Question) -> pl.DataFrame:
    """Return one row per dose and two methods: effect of the first less that of the second on the
    same dilemmas.

    Clustered t (CR2) with its 95 % interval, conditional on the seeds that were run; p_holm is
    adjusted over a dose's rows.
    """
    records = []
    for dose in (UNIT, EQUAL_COST):
        found = {
            method: dilemma_effects(compared(scores)[dose], question)
            for method, scores in cells.items()
        }
        rows = []
        for method, other in itertools.combinations(found, 2):
            (own, sizes), (theirs, _) = found[method], found[other]
            difference, error, degrees = cluster_t(own - theirs, sizes)
            test = with_p(float(difference), float(error), degrees)
            reach = float(stats.t.ppf(0.975, degrees)) * test.stderr
            rows.append({
                "dose": dose, "method": method, "other": other, "n_dilemmas": len(sizes), "difference": test.slope,
                "ci_low": test.slope - reach, "ci_high": test.slope + reach, "stderr": test.stderr, "df": degrees, "p": test.p,
            })  # fmt: skip
        adjusted = multipletests([row["p"] for row in rows], method="holm")[1] if rows else []
        records += [row | {"p_holm": float(p)} for row, p in zip(rows, adjusted, strict=True)]
    return pl.DataFrame(records, schema=SCHEMA)
