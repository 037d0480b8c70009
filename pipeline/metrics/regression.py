"""Inference on dose-response: does the signed log-odds rise with the coefficient?"""

from dataclasses import asdict, dataclass

import numpy as np
import polars as pl
import statsmodels.api as sm
from scipy import stats

ALPHA = 0.05  # two-sided, after the correction for several tests that each table names
ROUNDING = 1e-12  # nats: below it a slope or an error is zero but for rounding


@dataclass(frozen=True)
class Slope:
    """A slope in nats per unit of the coefficient, with its standard error and two-sided p."""

    slope: float
    stderr: float
    p: float
    df: float
    """Degrees of freedom."""

    def named(self, suffix: str) -> dict[str, float]:
        return {f"{key}_{suffix}": value for key, value in asdict(self).items()}


def own_slopes(frame: pl.DataFrame, unit: str) -> pl.DataFrame:
    """Return each unit's least-squares slope with item fixed effects: dilemma_id, slope, weight.

    `frame` has item_id, dilemma_id, coefficient, y; `unit` is item_id or dilemma_id. weight = sum
    of squares of the coefficient within items; slope = sum of products / weight, in nats. Units
    seen at one coefficient only are left out.
    """
    items, units = (frame[name].rank("dense").to_numpy() - 1 for name in ("item_id", unit))
    counts = np.bincount(items)
    x, y = (
        values - (np.bincount(items, values) / counts)[items]
        for values in (frame[name].to_numpy() for name in ("coefficient", "y"))
    )
    weight, product = np.bincount(units, x * x), np.bincount(units, x * y)
    first = np.unique(units, return_index=True)[1]
    seen = weight > 0
    dilemmas = frame["dilemma_id"].gather(first).filter(pl.Series(seen))
    return pl.DataFrame(
        {"dilemma_id": dilemmas, "slope": product[seen] / weight[seen], "weight": weight[seen]}
    )


def cluster_t(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return the weighted mean of values [..., g], its CR2 standard error, and its degrees.

    With h_g = w_g / sum w, a_g = h_g² / (1 - h_g) and the mean b: var b = sum a_g (b_g - b)². By
    Satterthwaite's rule df = 1 / (sum h² - sum a² + (sum a)²). This is the bias-reduced
    linearisation of Bell and McCaffrey (2002) for one regressor after item fixed effects. These are
    nested in the clusters (Pustejovsky and Tipton 2018, theorem 2). The working model has equal and
    independent errors. With equal weights it is the one-sample t test of the values.
    """
    share = weights / weights.sum()
    adjusted = share**2 / (1 - share)
    mean = values @ share
    error = np.sqrt((values - mean[..., None]) ** 2 @ adjusted)
    return mean, error, float(1 / ((share**2).sum() - (adjusted**2).sum() + adjusted.sum() ** 2))


def clustered_slope(frame: pl.DataFrame) -> Slope:
    """Regress y on the coefficient with item fixed effects; errors clustered by dilemma (CR2).

    Columns: item_id, dilemma_id, coefficient, y; at least two dilemmas. On a balanced table this is
    the one-sample t test of the dilemmas' own slopes.
    """
    own = own_slopes(frame, "dilemma_id")
    slope, error, degrees = cluster_t(own["slope"].to_numpy(), own["weight"].to_numpy())
    return with_p(float(slope), float(error), degrees)


def pooled_slope(frame: pl.DataFrame) -> Slope:
    """Regress y on the coefficient over all rows as if independent, as the papers do."""
    fit = sm.OLS(frame["y"].to_numpy(), sm.add_constant(frame["coefficient"].to_numpy())).fit()
    return with_p(float(fit.params[1]), float(fit.bse[1]), float(fit.df_resid))


def with_p(slope: float, stderr: float, degrees: float) -> Slope:
    if stderr < ROUNDING:
        return Slope(slope, 0.0, 1.0 if abs(slope) < ROUNDING else 0.0, degrees)
    return Slope(slope, stderr, float(2 * stats.t.sf(abs(slope) / stderr, degrees)), degrees)
