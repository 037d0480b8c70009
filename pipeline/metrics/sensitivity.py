"""Does the main test's answer depend on its assumptions? Other tests of the same slope."""

import itertools
import warnings
from typing import Any

import numpy as np
import polars as pl
import statsmodels.api as sm

from pipeline.metrics import regression
from pipeline.metrics.regression import ROUNDING, Slope, own_slopes
from pipeline.metrics.scores import Evaluation, at_one
from pipeline.support.schemas import numbers, texts

EXACT = 14  # dilemmas: up to here all sign patterns are counted
# Variance within over between dilemmas: below it statsmodels calls a fit converged that is not.
UNEQUAL = 1e-5
SCHEMA = texts("mixed_note") | numbers("p_mixed", "p_two_way", "stderr_two_way", "df_two_way")


def sign_patterns(dilemmas: int, draws: int, seed: int) -> tuple[np.ndarray, bool]:
    """Return signs [patterns, dilemmas] and whether they are all there are, not random `draws`."""
    if dilemmas <= EXACT:
        return np.array(list(itertools.product((1.0, -1.0), repeat=dilemmas))), True
    return np.random.default_rng(seed).choice((1.0, -1.0), size=(draws, dilemmas)), False


def sign_flip_p(contributions: np.ndarray, signs: np.ndarray, exact: bool) -> np.ndarray:
    """Return the two-sided p of contributions [..., dilemmas], each weight x slope.

    It is how often random signs give as large a sum. It is exact for slopes distributed
    symmetrically around 0, whatever the variance in each dilemma. Among drawn signs the observed
    pattern counts once more (Phipson and Smyth 2010), so that p is never 0.
    """
    observed = np.abs(contributions.sum(-1, keepdims=True))
    extreme = (np.abs(contributions @ signs.T) >= observed * (1 - 1e-9)).sum(-1)
    return extreme / len(signs) if exact else (extreme + 1) / (len(signs) + 1)


def mixed_slope(frame: pl.DataFrame) -> dict[str, Any]:
    """Fit a mixed model to the items' own slopes, random by dilemma: p_mixed, or why there is none.

    REML, Wald z. For a model with item fixed effects, a slope by dilemma and independent errors, an
    item's slope is a sufficient statistic.
    """
    own = own_slopes(frame, "item_id").sort("dilemma_id", maintain_order=True)
    slopes, groups = own["slope"].to_numpy(), own["dilemma_id"].to_numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what they say is read off the fit below
        try:
            fit = sm.MixedLM(slopes, np.ones((own.height, 1)), groups=groups).fit(reml=True)
        except np.linalg.LinAlgError:
            return {"p_mixed": None, "mixed_note": "singular"}
    if not fit.converged or not np.isfinite(fit.pvalues[0]):
        return {"p_mixed": None, "mixed_note": "did not converge"}
    if fit.scale < UNEQUAL * fit.cov_re[0, 0]:
        return {"p_mixed": None, "mixed_note": "the items of a dilemma hardly differ"}
    note = "no variance between dilemmas" if fit.cov_re[0, 0] < ROUNDING else None
    return {"p_mixed": float(fit.pvalues[0]), "mixed_note": note}


def two_way_t(slopes: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return mean, standard error and degrees of slopes [..., dilemmas, seeds] clustered both ways.

    `weights` [dilemmas]. V = V(dilemma) + V(seed) - V(both) (Cameron, Gelbach and Miller 2011),
    each times G / (G - 1). V is never below the larger of the first two. There are min(G) - 1
    degrees: three seeds leave two, a wide test.
    """
    dilemmas, seeds = slopes.shape[-2:]
    share = weights[:, None] / (weights.sum() * seeds)
    mean = (slopes * share).sum((-2, -1))
    scores = (slopes - mean[..., None, None]) * share
    by_dilemma = dilemmas / (dilemmas - 1) * (scores.sum(-1) ** 2).sum(-1)
    by_seed = seeds / (seeds - 1) * (scores.sum(-2) ** 2).sum(-1)
    cells = dilemmas * seeds
    both = cells / (cells - 1) * (scores**2).sum((-2, -1))
    error = np.sqrt(np.maximum(by_dilemma + by_seed - both, np.maximum(by_dilemma, by_seed)))
    return mean, error, float(min(dilemmas, seeds) - 1)


def two_way_slope(frames: list[pl.DataFrame]) -> Slope | None:
    """Return the slope with errors clustered by dilemma and seed; None for one seed.

    Fixed effects by item and seed. One frame per seed as `clustered_slope` takes it, each with the
    base's rows and the same items.
    """
    if len(frames) < 2:
        return None
    own = [own_slopes(frame, "dilemma_id").sort("dilemma_id") for frame in frames]
    slopes = np.stack([part["slope"].to_numpy() for part in own], -1)
    slope, error, degrees = two_way_t(slopes, own[0]["weight"].to_numpy())
    return regression.with_p(float(slope), float(error), degrees)


def sensitivity_table(cells: dict[str, pl.DataFrame], evaluation: Evaluation) -> pl.DataFrame:
    """Return the slope from -c to +c and its p by every test, at ±1."""
    params, records = evaluation.params, []
    for method, scores in cells.items():
        rows = at_one(scores)
        frame = evaluation.movements(rows)
        own = own_slopes(frame, "dilemma_id")
        signs, exact = sign_patterns(own.height, params.permutations, params.seed)
        contributions = (own["slope"] * own["weight"]).to_numpy()
        by_seed = rows.partition_by("seed", maintain_order=True)
        both = two_way_slope([evaluation.movements(part) for part in by_seed])
        records.append({
            "method": method, "n_seeds": len(by_seed), "n_dilemmas": own.height,
            **regression.clustered_slope(frame).named("clustered"),
            "p_permutation": float(sign_flip_p(contributions, signs, exact)),
            "permutation_exact": exact, **mixed_slope(frame),
            "stderr_two_way": both and both.stderr, "df_two_way": both and both.df,
            "p_two_way": both and both.p, "p_pooled": regression.pooled_slope(frame).p,
        })  # fmt: skip
    return pl.DataFrame(records, schema_overrides=SCHEMA)
