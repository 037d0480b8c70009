"""The two doses at which methods are compared: ±1 (or nearest), and the calibrated one that costs
the same.
"""

import polars as pl

from pipeline.support.schemas import CALIBRATED, RAW

UNIT, EQUAL_COST = "unit", "equal_cost"


def compared(scores: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return one method's scores, all seeds, at both doses; the coefficient is its sign, since its
    size differs by seed.

    A method whose coefficient has no size stands at its only dose in both.
    """
    raw = scores.filter(pl.col("dose") == RAW)
    unit = raw.filter(pl.col("coefficient").abs() == nearest_to_one(raw))
    calibrated = scores.filter(pl.col("dose") == CALIBRATED)
    found = {UNIT: unit, EQUAL_COST: calibrated if calibrated.height else unit}
    return {name: rows.with_columns(pl.col("coefficient").sign()) for name, rows in found.items()}


def nearest_to_one(scores: pl.DataFrame) -> float:
    return min(scores["coefficient"].abs().unique(), key=lambda c: (abs(c - 1), c))
