"""How often the tests of `metrics` find an effect where there is none, and one that is there.

Simulated studies have the shape of real ones: dilemmas of 2 to 6 items, seven
coefficients, and signed log-odds

    y(dilemma, item, c) = level(item) + (effect + slope(dilemma)) c
                          + drift(dilemma, c) + noise(item, c)

Drift and noise are autoregressive over the coefficients. So rows of a dilemma depend on each other
in every way that the main test claims to allow for. `null_page` writes what comes out.
"""

from collections.abc import Iterator

import numpy as np
import polars as pl
from scipy import stats

from pipeline.metrics.regression import cluster_t
from pipeline.metrics.sensitivity import mixed_slope, sign_flip_p, sign_patterns, two_way_t

COEFFICIENTS = np.array([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0])
SIZES = (12, 64, 219)  # dilemmas: few, about as many as in the default study, and many
STUDIES = 10_000  # a rate of 5 % is then known to half a percent
CHUNK = 100  # studies that exist at once
MIXED = {12: 300, 64: 300}  # studies for the mixed model too, as slow as all the rest
PERMUTATIONS = 1999
# Standard deviations in nats, or nats per unit of c.
LEVEL_SD = 2.0
SLOPE_SD = 0.4
DRIFT_SD = 0.2
NOISE_SD = 0.4
CORRELATION = 0.6  # of neighbouring coefficients
LEVEL_SDS = (0.5, 2.0, 8.0)  # for the pooled test, whose error takes the levels for noise
SEEDS = 3  # of the two-way test
SEED_SDS = (0.0, 0.1, 0.5)  # how far one seed's adapter is from another's
DETECTABLE = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)  # best errors: found with power 0.8
ALPHA = 0.05
MAIN = "clustered by dilemma, CR2 (main)"
POOLED = "pooled, as the papers"
BEST = "best possible"


def covariance(sd: float) -> np.ndarray:
    """Return the covariance of an autoregressive term over the coefficients [7, 7]."""
    lag = np.abs(np.subtract.outer(np.arange(len(COEFFICIENTS)), np.arange(len(COEFFICIENTS))))
    return sd**2 * CORRELATION**lag


def best_variance(sizes: np.ndarray) -> np.ndarray:
    """Return the true variance of each dilemma's slope [g], which only the best test knows."""
    x = COEFFICIENTS / (COEFFICIENTS**2).sum()
    return SLOPE_SD**2 + x @ covariance(DRIFT_SD) @ x + x @ covariance(NOISE_SD) @ x / sizes


def simulate(
    sizes: np.ndarray, studies: int, rng: np.random.Generator, level_sd: float = LEVEL_SD
) -> np.ndarray:
    """Return signed log-odds [studies, items, coefficients] without an effect; `sizes` is [g]."""
    dilemma = np.repeat(np.arange(len(sizes)), sizes)

    def correlated(rows: int, sd: float) -> np.ndarray:
        plain = rng.normal(size=(studies, rows, len(COEFFICIENTS)))
        return plain @ np.linalg.cholesky(covariance(sd)).T

    level = rng.normal(0, level_sd, (studies, len(dilemma), 1))
    slope = rng.normal(0, SLOPE_SD, (studies, len(sizes), 1))
    drift = correlated(len(sizes), DRIFT_SD)
    noise = correlated(len(dilemma), NOISE_SD)
    return level + (slope * COEFFICIENTS + drift)[:, dilemma] + noise


def dilemma_slopes(y: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return every dilemma's slope [studies, g], the mean of its items' own."""
    # The coefficients are symmetric around 0.
    by_item = y @ COEFFICIENTS / (COEFFICIENTS**2).sum()
    return np.add.reduceat(by_item, np.cumsum(sizes) - sizes, axis=1) / sizes


def pooled_p(y: np.ndarray) -> np.ndarray:
    """Return the p [studies] of least squares over all rows, as `regression.pooled_slope`."""
    rows = y.shape[1] * y.shape[2]
    squares = y.shape[1] * (COEFFICIENTS**2).sum()
    slope = (y @ COEFFICIENTS).sum(1) / squares
    left = ((y - y.mean((1, 2), keepdims=True)) ** 2).sum((1, 2)) - slope**2 * squares
    return two_sided(slope, np.sqrt(left / (rows - 2) / squares), rows - 2)


def two_sided(mean: np.ndarray, error: np.ndarray, degrees: float) -> np.ndarray:
    return 2 * stats.t.sf(np.abs(mean) / error, degrees)


def plain_cluster_p(slopes: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the p of the usual cluster-robust error (CR1) with g - 1 degrees of freedom."""
    weights, g = sizes / sizes.sum(), len(sizes)
    mean = slopes @ weights
    error = np.sqrt(g / (g - 1) * (slopes - mean[:, None]) ** 2 @ weights**2)
    return two_sided(mean, error, g - 1)


def p_values(
    y: np.ndarray, sizes: np.ndarray, signs: tuple[np.ndarray, bool]
) -> dict[str, np.ndarray]:
    """Return every test's p [studies]."""
    slopes, precision = dilemma_slopes(y, sizes), 1 / best_variance(sizes)
    best = np.abs(slopes @ precision) / np.sqrt(precision.sum())
    return {
        MAIN: two_sided(*cluster_t(slopes, sizes.astype(float))),
        "clustered by dilemma, CR1": plain_cluster_p(slopes, sizes),
        "t test of dilemmas' slopes": two_sided(*cluster_t(slopes, np.ones(len(sizes)))),
        "sign flips by dilemma": sign_flip_p(slopes * sizes, *signs),
        POOLED: pooled_p(y),
        BEST: 2 * stats.norm.sf(best),
    }


def mixed_p(y: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return the mixed model's p of every study, NaN where it gives none."""
    dilemma = pl.Series("dilemma_id", np.repeat(np.arange(len(sizes)), sizes))
    items = dilemma.to_frame().with_row_index("item_id")
    frame = items.join(pl.DataFrame({"coefficient": COEFFICIENTS}), how="cross")
    studies = (frame.with_columns(pl.Series("y", study.ravel())) for study in y)
    return np.array([mixed_slope(study)["p_mixed"] for study in studies], dtype=float)


def record(dilemmas: int, test: str, null: np.ndarray, power: float | None) -> dict[str, object]:
    """Return type-I error with its 95 % interval (Clopper and Pearson), and power.

    A study without a p does not reject.
    """
    rejected = stats.binomtest(int((null < ALPHA).sum()), len(null))
    low, high = rejected.proportion_ci()
    own = {"dilemmas": dilemmas, "test": test, "studies": len(null)}
    return own | {"type_one": rejected.statistic, "low": low, "high": high, "power": power}


def error_rates(
    dilemmas: int, studies: int, mixed: int = 0, seed: int = 0
) -> Iterator[dict[str, object]]:
    """Yield a record per test, of null studies and the same ones with an effect.

    The best possible test finds the effect with power 0.8. The mixed model sees only the
    first `mixed` null studies.
    """
    rng = np.random.default_rng([seed, dilemmas])
    sizes = rng.integers(2, 7, dilemmas)
    effect = DETECTABLE / np.sqrt((1 / best_variance(sizes)).sum())
    signs = sign_patterns(dilemmas, PERMUTATIONS, seed)
    nulls, theres, fitted = [], [], []
    for done in range(0, studies, CHUNK):
        y = simulate(sizes, min(CHUNK, studies - done), rng)
        nulls.append(p_values(y, sizes, signs))
        theres.append(p_values(y + effect * COEFFICIENTS, sizes, signs))
        if done < mixed:
            fitted.append(mixed_p(y, sizes))
    for test in nulls[0]:
        null, there = (np.concatenate([part[test] for part in parts]) for parts in (nulls, theres))
        yield record(dilemmas, test, null, float((there < ALPHA).mean()))
    if fitted:
        yield record(dilemmas, "mixed model", np.concatenate(fitted), None)


def pooled_error_rates(dilemmas: int, studies: int, seed: int = 0) -> Iterator[dict[str, object]]:
    """Yield how often the pooled test rejects where items differ little, and much, in level."""
    rng = np.random.default_rng([seed, dilemmas])
    sizes = rng.integers(2, 7, dilemmas)
    for sd in LEVEL_SDS:
        chunks = range(studies // CHUNK)
        p = np.concatenate([pooled_p(simulate(sizes, CHUNK, rng, sd)) for _ in chunks])
        rejected = float((p < ALPHA).mean())
        yield {"dilemmas": dilemmas, "level_sd": sd, "studies": len(p), "rejected": rejected}


def seed_error_rates(dilemmas: int, studies: int, seed: int = 0) -> Iterator[dict[str, object]]:
    """Yield how often two tests reject "no mean effect over all seeds that there could be"."""
    rng = np.random.default_rng([seed, dilemmas])
    sizes = rng.integers(2, 7, dilemmas).astype(float)
    for sd in SEED_SDS:
        by_dilemma = rng.normal(0, SLOPE_SD, (studies, dilemmas, 1))
        by_seed = rng.normal(0, sd, (studies, 1, SEEDS))
        noise = rng.normal(0, NOISE_SD / 2, (studies, dilemmas, SEEDS)) / np.sqrt(sizes)[:, None]
        slopes = by_dilemma + by_seed + noise
        tests = {
            MAIN: cluster_t(slopes.mean(-1), sizes),
            "clustered by dilemma and seed": two_way_t(slopes, sizes),
        }
        for test, figures in tests.items():
            rejected = float((two_sided(*figures) < ALPHA).mean())
            own = {"dilemmas": dilemmas, "seed_sd": sd, "test": test, "studies": studies}
            yield own | {"rejected": rejected}
