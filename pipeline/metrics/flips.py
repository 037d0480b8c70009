"""AntiPaSTO's Steering F1, flips and focus, with the labels that its paper intends.

The published code negates not_to_do rows although their labels are signed already, and so measures
the yes-bias. Here y = label x log-odds and nothing else. The answers do not choose the sign of c,
as they do there.
"""

from typing import Any

import numpy as np
import polars as pl

from pipeline.metrics.scores import COLUMNS, Evaluation, at_one, signed_scores
from pipeline.support.paths import BASE
from pipeline.support.schemas import LABEL, numbers, texts

MEASURES = (
    "steering_f1", "fixed", "broken", "off_target", "flips", "right_way", "off_target_flips",
    "focus", "control_change",
)  # fmt: skip
SCHEMA = texts("method") | {"n_seeds": pl.Int64} | numbers(*MEASURES, "steering_f1_sd")


def weighted_share(change: np.ndarray, base: np.ndarray) -> float:
    """Return the share of rows that change, weighted by |base|: sure answers count more."""
    total = np.abs(base).sum()
    return float(np.abs(base)[change].sum() / total) if total else 0.0


def steering_f1(fixed: float, broken: float, off_target: float, mass_ratio: float) -> float:
    """Return 100 x 2PR / (P + R) x min(1, mass_ratio)².

    net = max(0, fixed - broken), P = net / (net + off_target), R = net. In the paper's formula the
    mass ratio could exceed 1.
    """
    net = max(0.0, fixed - broken)
    precision = net / (net + off_target) if net else 0.0
    return 100 * 2 * precision * net / (precision + net) * min(1.0, mass_ratio) ** 2 if net else 0.0


def flip_measures(
    target: np.ndarray, off: np.ndarray, mass_ratio: float | None
) -> dict[str, float | None]:
    """Return the measures of y at (-c, 0, +c): `target` [n, 3] signed by label, `off` [m, 3] not.

    fixed, broken: share of target rows that turn right, or wrong, at +c, weighted by |y(0)|.
    off_target: share of other rows whose answer turns at either sign, likewise.
    flips: share of target rows whose answer differs between -c and +c; off_target_flips: of others.
    right_way: the share of flips with y(+) > y(-).
    focus: flips / off_target_flips, null without any of these.
    """
    down, base, up = target.T
    turned = np.sign(down) != np.sign(up)
    fixed = weighted_share((base < 0) & (up > 0), base)
    broken = weighted_share((base > 0) & (up < 0), base)
    flips = float(turned.mean())
    off_target = off_flips = f1 = None
    if len(off):
        off_down, off_base, off_up = np.sign(off).T
        off_turned = (off_base != off_down) | (off_base != off_up)
        off_target = weighted_share(off_turned, off[:, 1])
        off_flips = float((off_down != off_up).mean())
        f1 = None if mass_ratio is None else steering_f1(fixed, broken, off_target, mass_ratio)
    return {
        "steering_f1": f1, "fixed": fixed, "broken": broken, "off_target": off_target,
        "flips": flips, "right_way": float((up > down)[turned].mean()) if turned.any() else None,
        "off_target_flips": off_flips, "focus": flips / off_flips if off_flips else None,
    }  # fmt: skip


def by_sign(rows: pl.DataFrame, column: str) -> np.ndarray:
    """Return a column as [items, 3] at -c, 0, +c."""
    return rows.sort("item_id", "coefficient")[column].to_numpy().reshape(-1, 3)


def off_target_items(evaluation: Evaluation) -> list[str]:
    """Return the ids of the items that concern neither the target nor its opposite."""
    named = [LABEL + name for name in (evaluation.target, *evaluation.opposite)]
    columns = [name for name in named if name in evaluation.items.columns]
    concerned = pl.any_horizontal(pl.col(columns) != 0)
    return evaluation.items.filter(~concerned)["item_id"].to_list()


def control_rows(method: str, seed: int, evaluation: Evaluation) -> pl.DataFrame | None:
    """Return the control items' scores at (-c, 0, +c); None where the set goes without them."""
    if evaluation.controls is None:
        return None
    by_method = evaluation.controls.partition_by("method", as_dict=True)
    own = at_one(by_method[(method,)]).filter(seed=seed)
    return pl.concat([by_method[(BASE,)].select(COLUMNS), own.select(COLUMNS)])


def seed_measures(
    rows: pl.DataFrame, controls: pl.DataFrame | None, evaluation: Evaluation
) -> dict[str, float | None]:
    """Return one seed's measures; F1 is null where an arm's choice mass is below the gate.

    control_change: mean |change of log-odds| of the controls over both signs, null without them.
    """
    whole = evaluation.with_base(rows)
    others = whole.filter(pl.col("item_id").is_in(off_target_items(evaluation)))
    around = by_sign(others if controls is None else controls, "log_odds")
    down, base, up = by_sign(whole, "choice_mass").mean(0)
    least = min(down, up)
    ratio = least / base if least >= evaluation.params.min_choice_mass else None
    target = signed_scores(whole, evaluation.items, [evaluation.target])
    moved = None if controls is None else float(np.abs(around[:, [0, 2]] - around[:, [1]]).mean())
    return flip_measures(by_sign(target, "y"), around, ratio) | {"control_change": moved}


def flip_table(cells: dict[str, pl.DataFrame], evaluation: Evaluation) -> pl.DataFrame:
    """Return every measure's mean over seeds, and the spread of F1, at ±1.

    Off-target rows are the control items, as in the paper. Without them, they are the items that
    concern neither the target nor its opposite. A measure is null if any seed has none.
    """
    records = []
    for method, scores in cells.items():
        seeds = [
            seed_measures(own, control_rows(method, seed, evaluation), evaluation)
            for (seed,), own in at_one(scores).group_by("seed", maintain_order=True)
        ]
        known = {name: [v for row in seeds if (v := row[name]) is not None] for name in MEASURES}
        whole = {name: own for name, own in known.items() if len(own) == len(seeds)}
        record: dict[str, Any] = {"method": method, "n_seeds": len(seeds)}
        record |= {name: float(np.mean(own)) for name, own in whole.items()}
        if len(f1 := whole.get("steering_f1", [])) > 1:
            record["steering_f1_sd"] = float(np.std(f1, ddof=1))
        records.append(record)
    return pl.DataFrame(records, schema=SCHEMA)
