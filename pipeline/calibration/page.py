"""calibration: simulated studies -> docs/calibration*.csv and calibration.md."""

from pathlib import Path

import polars as pl

from pipeline.calibration.studies import (
    ALPHA,
    MIXED,
    SEEDS,
    SIZES,
    SLOPE_SD,
    STUDIES,
    calibrate,
    calibrate_pooled,
    calibrate_seeds,
)
from pipeline.files import new_file
from pipeline.rendering import markdown

FOLDER = Path("docs")
POOLED_STUDIES = 2_000
TEXT = """# Calibration of the tests

Written by `python -m pipeline calibration`; the figures with all digits are in calibration*.csv.
Simulated studies, as described at the head of `pipeline/calibration/studies.py`; nominal level {alpha:.0%}, an effect that the
best possible test, a weighted mean by the true variances, finds with power 0.80. Brackets: 95 % interval of the simulation.

{tests}
The main test is of the item-weighted slope, because the effects are means over items. Where sizes are equal, as in both
evaluation sets, it is the t test of the dilemmas' slopes. How far off the pooled test is depends on how much items differ in
level, which it takes for noise:

{levels}
## Over further seeds

The p of the tables speaks of the adapters that were trained, not of others that could be. Here every study has {seeds} seeds
whose true effects differ (SD in nats per unit of c, beside {slope} between dilemmas) around a mean of zero; rejections of that
zero:

{over_seeds}
Clustering both ways leaves {left} degrees of freedom with {seeds} seeds: it is near its level only where seeds differ far more
than the error by dilemma, and elsewhere too wide to find much. Its small p is to be believed, its large p says little.
"""


def percent(value: object) -> str:
    return f"{100 * float(str(value)):.1f} %"


def error_row(row: dict) -> dict[str, str]:
    return {
        "Test": row["test"], "Dilemmas": str(row["dilemmas"]), "Studies": str(row["studies"]),
        "False positives": f"{percent(row['type_one'])} [{percent(row['low'])}, {percent(row['high'])}]",
        "Power": "–" if row["power"] is None else f"{row['power']:.2f}",
    }  # fmt: skip


def seeds_row(row: dict) -> dict[str, str]:
    return {
        "Test": row["test"], "Dilemmas": str(row["dilemmas"]), "SD of seeds": str(row["seed_sd"]),
        "Rejections": percent(row["rejected"]),
    }  # fmt: skip


def levels_row(row: dict) -> dict[str, str]:
    return {
        "SD of levels (nats)": str(row["level_sd"]),
        "Dilemmas": str(row["dilemmas"]),
        "Pooled rejects": percent(row["rejected"]),
    }


def main() -> None:
    """Run the whole study and write its page and tables."""
    tests = [row for g in SIZES for row in calibrate(g, STUDIES, MIXED.get(g, 0))]
    over_seeds = [row for g in SIZES for row in calibrate_seeds(g, STUDIES)]
    levels = [row for g in SIZES for row in calibrate_pooled(g, POOLED_STUDIES)]
    for name, rows in {"calibration": tests, "calibration_seeds": over_seeds, "calibration_pooled": levels}.items():
        with new_file(FOLDER / f"{name}.csv") as file:
            pl.DataFrame(rows, infer_schema_length=None).write_csv(file)
    shown, seeds, pooled = (
        markdown(pl.DataFrame([row(one) for one in rows]))
        for row, rows in ((error_row, tests), (seeds_row, over_seeds), (levels_row, levels))
    )
    with new_file(FOLDER / "calibration.md") as file:
        file.write_text(TEXT.format(
            alpha=ALPHA, seeds=SEEDS, slope=SLOPE_SD, left=SEEDS - 1, tests=shown, over_seeds=seeds, levels=pooled
        ))  # fmt: skip
