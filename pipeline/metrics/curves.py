"""The shape of the dose-response over all coefficients: monotone? how straight on a symmetric log
scale?
"""

import math
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from pipeline.metrics.effects import mean_over_seeds, means, signed, with_base
from pipeline.metrics.question import Question
from pipeline.metrics.regression import ROUNDING, clustered_slope
from pipeline.support.schemas import RAW


def symlog(c: np.ndarray) -> np.ndarray:
    return np.sign(c) * np.log1p(np.abs(c))


def curve_record(frame: pl.DataFrame, valid: float) -> dict[str, Any]:
    """Return the shape of signed log-odds y over the coefficient; `valid` is the share of rows with
    enough choice mass.

    monotone: share of dilemmas whose mean y never falls as the coefficient rises, and is higher at
    its end than its start. spearman: rank correlation of the mean curve with the coefficient.
    symlog_slope, r2: least squares of the mean curve on symlog(c) = sign(c) ln(1 + |c|), which the
    September 2025 gradient-steering study fits to one dilemma; symlog_p: of the same slope over
    items, clustered by dilemma. score = |slope| valid² r2, as there.
    """
    doses = np.array(sorted(frame["coefficient"].unique()))
    responses = (
        means(frame, ["dilemma_id", "coefficient"], ["y"])
        .sort("dilemma_id", "coefficient")["y"]
        .to_numpy()
    )
    responses = responses.reshape(-1, len(doses))
    rising = (np.diff(responses, axis=1) >= -ROUNDING).all(1) & (
        responses[:, -1] > responses[:, 0] + ROUNDING
    )
    curve = means(frame, ["coefficient"], ["y"]).sort("coefficient")["y"].to_numpy()
    flat = np.ptp(curve) < ROUNDING
    fit = stats.linregress(symlog(doses), curve)
    slope, r2 = float(fit.slope), 0.0 if flat else float(fit.rvalue) ** 2
    scaled = frame.with_columns(pl.Series("coefficient", symlog(frame["coefficient"].to_numpy())))
    return {
        "monotone": float(rising.mean()), "spearman": None if flat else float(stats.spearmanr(doses, curve).statistic),
        "symlog_slope": slope, "symlog_p": clustered_slope(scaled).p, "r2": r2, "valid": valid,
        "score": abs(slope) * valid**2 * r2,
    }  # fmt: skip


def curve_table(cells: dict[str, pl.DataFrame], question: Question) -> pl.DataFrame:
    """Return one row per method over its raw coefficients and 0, on the mean of seeds; unanswered
    rows only lower `valid`.
    """
    records = []
    for method, scores in cells.items():
        raw = scores.filter(pl.col("dose") == RAW)
        frame = signed(
            with_base(mean_over_seeds(raw), question.base), question.items, question.target
        )
        valid = frame["choice_mass"] >= question.params.min_choice_mass
        record = curve_record(frame, math.fsum(valid) / frame.height)
        records.append(
            {"method": method, "n_coefficients": frame["coefficient"].n_unique(), **record}
        )
    return pl.DataFrame(records, schema_overrides={"spearman": pl.Float64})
