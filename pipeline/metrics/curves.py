"""The shape of the dose-response: is it monotone, how straight on a symmetric log scale?"""

import math
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from pipeline.metrics.regression import ROUNDING, clustered_slope
from pipeline.metrics.scores import Evaluation, means


def symlog(c: np.ndarray) -> np.ndarray:
    return np.sign(c) * np.log1p(np.abs(c))


def curve_record(frame: pl.DataFrame, valid: float) -> dict[str, Any]:
    """Return the shape of signed log-odds y; `valid` is the share of rows with enough choice mass.

    monotone: share of dilemmas whose mean y never falls as c rises, and ends higher than it starts.
    spearman: rank correlation of the mean curve with c.
    symlog_slope, r2: least squares of the mean curve on symlog(c) = sign(c) ln(1 + |c|). The
    September 2025 gradient-steering study fits the same to one dilemma.
    symlog_p: the same slope over items, clustered by dilemma.
    score: |slope| valid² r2, as in that study.
    """
    coefficients = np.array(sorted(frame["coefficient"].unique()))
    keys = ["dilemma_id", "coefficient"]
    ordered = means(frame, keys, ["y"]).sort(keys)
    responses = ordered["y"].to_numpy().reshape(-1, len(coefficients))
    higher = responses[:, -1] > responses[:, 0] + ROUNDING
    rising = (np.diff(responses, axis=1) >= -ROUNDING).all(1) & higher
    curve = means(frame, ["coefficient"], ["y"]).sort("coefficient")["y"].to_numpy()
    flat = np.ptp(curve) < ROUNDING
    fit = stats.linregress(symlog(coefficients), curve)
    slope, r2 = float(fit.slope), 0.0 if flat else float(fit.rvalue) ** 2
    spearman = None if flat else float(stats.spearmanr(coefficients, curve).statistic)
    on_symlog = pl.Series("coefficient", symlog(frame["coefficient"].to_numpy()))
    return {
        "monotone": float(rising.mean()), "spearman": spearman, "symlog_slope": slope,
        "symlog_p": clustered_slope(frame.with_columns(on_symlog)).p, "r2": r2, "valid": valid,
        "score": abs(slope) * valid**2 * r2,
    }  # fmt: skip


def curve_table(cells: dict[str, pl.DataFrame], evaluation: Evaluation) -> pl.DataFrame:
    """Return a row per method over all c and 0, mean of seeds; unanswered rows lower `valid`."""
    records = []
    for method, scores in cells.items():
        moved = evaluation.movements(scores)
        valid = math.fsum(evaluation.answered(moved)) / moved.height
        count = moved["coefficient"].n_unique()
        records.append({"method": method, "n_coefficients": count, **curve_record(moved, valid)})
    return pl.DataFrame(records, schema_overrides={"spearman": pl.Float64})
