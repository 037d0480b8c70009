"""Does one method steer further than another? All pairs of methods, paired by dilemma."""

import itertools

import numpy as np
import polars as pl
from scipy import stats
from statsmodels.stats.multitest import multipletests

from pipeline.metrics.regression import cluster_t, with_p
from pipeline.metrics.scores import SUFFIXES, Evaluation, at_one, fold_arms, in_both
from pipeline.support.schemas import numbers, texts

NUMBERS = in_both("difference", "ci_low", "ci_high", "stderr", "df", "p", "p_holm")
SCHEMA = texts("method", "other") | {"n_dilemmas": pl.Int64} | numbers(*NUMBERS)


def paired(values: np.ndarray, sizes: np.ndarray) -> dict[str, float]:
    """Return the mean of the dilemmas' differences with its clustered t test (CR2)."""
    difference, error, degrees = cluster_t(values, sizes)
    test = with_p(float(difference), float(error), degrees)
    reach = float(stats.t.ppf(0.975, degrees)) * test.stderr
    return {
        "difference": test.slope, "ci_low": test.slope - reach, "ci_high": test.slope + reach,
        "stderr": test.stderr, "df": degrees, "p": test.p,
    }  # fmt: skip


def difference_table(cells: dict[str, pl.DataFrame], evaluation: Evaluation) -> pl.DataFrame:
    """Return the effect of one method less another's at ±1, for all pairs.

    Clustered t (CR2) with its 95 % interval, for the seeds that were run; in probability and in
    log-odds. p_holm is adjusted over all pairs.
    """
    moved = {method: evaluation.movements(at_one(scores)) for method, scores in cells.items()}
    effects = {
        method: fold_arms(own, ["dilemma_id"], in_both("effect")).sort("dilemma_id")
        for method, own in moved.items()
    }
    rows = []
    for method, other in itertools.combinations(effects, 2):
        own, theirs = effects[method], effects[other]
        row = {"method": method, "other": other, "n_dilemmas": own.height}
        for name, suffix in zip(in_both("effect"), SUFFIXES, strict=True):
            test = paired((own[name] - theirs[name]).to_numpy(), own["count"].to_numpy())
            row |= {f"{key}{suffix}": value for key, value in test.items()}
        rows.append(row)
    for suffix in SUFFIXES if rows else ():
        p = multipletests([row[f"p{suffix}"] for row in rows], method="holm")[1]
        for row, adjusted in zip(rows, p, strict=True):
            row[f"p_holm{suffix}"] = float(adjusted)
    return pl.DataFrame(rows, schema=SCHEMA)
