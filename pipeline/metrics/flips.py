"""AntiPaSTO's Steering F1, flips and focus, with the labels that its paper intends.

The published code negates the not_to_do rows although the labels are already signed by row, so that
it measures the yes-bias; here y = label x log-odds and nothing else. Nor is the sign of the
coefficient chosen by the answers, as it is there.
"""

from typing import Any

import numpy as np
import polars as pl

from pipeline.metrics.doses import compared
from pipeline.metrics.effects import signed, with_base
from pipeline.metrics.question import Question
from pipeline.support.schemas import LABEL

MEASURES = (
    "steering_f1",
    "fixed",
    "broken",
    "off_target",
    "flips",
    "right_way",
    "off_target_flips",
    "focus",
)


def weighted(change: np.ndarray, base: np.ndarray) -> float:
    """Return the share of rows that change, weighted by |base|, as the paper does: sure answers
    count more.
    """
    total = np.abs(base).sum()
    return float(np.abs(base)[change].sum() / total) if total else 0.0


def steering_f1(fixed: float, broken: float, off_target: float, mass_ratio: float) -> float:
    """Return 100 x 2PR / (P + R) x min(1, mass_ratio)², net = max(0, fixed - broken), P = net /
    (net + off_target), R = net.

    The paper's formula, in which the mass ratio could exceed 1.
    """
    net = max(0.0, fixed - broken)
    precision = net / (net + off_target) if net else 0.0
    return 100 * 2 * precision * net / (precision + net) * min(1.0, mass_ratio) ** 2 if net else 0.0


def flip_measures(
    target: np.ndarray, off: np.ndarray, mass_ratio: float | None
) -> dict[str, float | None]:
    """Return the measures of y at (-dose, 0, +dose): `target` [n, 3] signed by the label, `off` [m,
    3] of any sign.

    fixed, broken: target rows that turn right, or wrong, at +dose, weighted by |y(0)|; off_target:
    other rows whose answer turns at either dose, likewise. flips: target rows whose answer differs
    between -dose and +dose; right_way: the share of these with y(+) > y(-); off_target_flips: as
    flips; focus = flips / off_target_flips, null without any of these.
    """
    down, base, up = target.T
    fixed, broken = weighted((base < 0) & (up > 0), base), weighted((base > 0) & (up < 0), base)
    signs = np.sign(off)
    off_target = (
        weighted((signs[:, 1] != signs[:, 0]) | (signs[:, 1] != signs[:, 2]), off[:, 1])
        if len(off)
        else 0.0
    )
    turned = np.sign(down) != np.sign(up)
    flips, others = (
        float(turned.mean()),
        float((signs[:, 0] != signs[:, 2]).mean()) if len(off) else None,
    )
    return {
        "steering_f1": None if mass_ratio is None or not len(off) else steering_f1(fixed, broken, off_target, mass_ratio),
        "fixed": fixed, "broken": broken, "off_target": off_target if len(off) else None, "flips": flips,
        "right_way": float((up > down)[turned].mean()) if turned.any() else None,
        "off_target_flips": others, "focus": flips / others if others else None,
    }  # fmt: skip


def by_dose(rows: pl.DataFrame, column: str) -> np.ndarray:
    """Return a column as [items, 3] at -dose, 0, +dose."""
    return rows.sort("item_id", "coefficient")[column].to_numpy().reshape(-1, 3)


def seed_measures(rows: pl.DataFrame, question: Question) -> dict[str, float | None]:
    """Return one seed's measures; F1 is null where an arm's choice mass is below the gate."""
    whole = with_base(rows, question.base)
    others = question.items
    for label in (question.target, *question.opposite):
        others = (
            others.filter(pl.col(LABEL + label) == 0) if LABEL + label in others.columns else others
        )
    off = whole.join(others.select("item_id"), on="item_id", how="semi", maintain_order="left")
    down, base, up = by_dose(whole, "choice_mass").mean(0)
    least = min(down, up)
    ratio = least / base if least >= question.params.min_choice_mass else None
    return flip_measures(
        by_dose(signed(whole, question.items, question.target), "y"),
        by_dose(off, "log_odds"),
        ratio,
    )


def flip_table(cells: dict[str, pl.DataFrame], question: Question) -> pl.DataFrame:
    """Return one row per method and dose: every measure's mean over seeds, and the spread of F1.

    Off-target rows are the items that concern neither the target nor its opposite; the paper takes
    sums and preferences. A measure is null if any seed has none.
    """
    records = []
    for method, scores in cells.items():
        for dose, rows in compared(scores).items():
            found = [
                seed_measures(part, question)
                for _, part in rows.group_by("seed", maintain_order=True)
            ]
            record: dict[str, Any] = {"method": method, "dose": dose, "n_seeds": len(found)}
            for name in MEASURES:
                values = [value for row in found if (value := row[name]) is not None]
                record[name] = float(np.mean(values)) if len(values) == len(found) else None
            f1 = [value for row in found if (value := row["steering_f1"]) is not None]
            record["steering_f1_sd"] = (
                float(np.std(f1, ddof=1)) if len(f1) == len(found) > 1 else None
            )
            records.append(record)
    return pl.DataFrame(
        records, schema_overrides=dict.fromkeys((*MEASURES, "steering_f1_sd"), pl.Float64)
    )
