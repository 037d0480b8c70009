"""Inference on dose-response: does the signed log-odds rise with the coefficient? (statsmodels)"""

from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
import statsmodels.api as sm

ROUNDING = 1e-12  # nats: below it a slope or an error is zero but for rounding


@dataclass(frozen=True)
class Slope:
    """A slope in nats per unit of the coefficient, its standard error and two-sided p."""

    slope: float
    stderr: float
    p: float

    def named(self, suffix: str) -> dict[str, float]:
        return {f"{key}_{suffix}": value for key, value in asdict(self).items()}


def clustered_slope(frame: pl.DataFrame) -> Slope:
    """Regress y on the coefficient with item fixed effects; errors clustered by dilemma, t with (dilemmas - 1) degrees.

    Columns: item_id, dilemma_id, coefficient, y. The fixed effects are taken out by centring within items. They are nested in
    the clusters, so the small-sample factor is G / (G - 1) alone (Cameron and Miller 2015, section III.B): on a balanced
    table this is exactly the one-sample t test of the dilemmas' own slopes.
    """
    centred = frame.with_columns((pl.col(name) - pl.col(name).mean().over("item_id")) for name in ("coefficient", "y"))
    groups = frame["dilemma_id"].rank("dense").to_numpy()
    count = int(groups.max())
    fit = sm.OLS(centred["y"].to_numpy(), centred["coefficient"].to_numpy()).fit(
        cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False, "df_correction": True}, use_t=True
    )
    error = float(fit.bse[0]) * np.sqrt(count / (count - 1))
    return with_p(float(fit.params[0]), error, count - 1)


def pooled_slope(frame: pl.DataFrame) -> Slope:
    """Regress y on the coefficient over all rows as if they were independent, as the papers do. Not calibrated."""
    fit = sm.OLS(frame["y"].to_numpy(), sm.add_constant(frame["coefficient"].to_numpy())).fit()
    return with_p(float(fit.params[1]), float(fit.bse[1]), int(fit.df_resid))


def with_p(slope: float, stderr: float, degrees: int) -> Slope:
    from scipy import stats

    if stderr < ROUNDING:
        return Slope(slope, 0.0, 1.0 if abs(slope) < ROUNDING else 0.0)
    return Slope(slope, float(stderr), float(2 * stats.t.sf(abs(slope) / stderr, degrees)))
