"""A study in MLflow: its parent run's figures, and saved views of all parent runs and all stages.

A view is a tag of the experiment, in the form in which MLflow 3's page keeps its own saved views. A
version that does not know the form leaves the views out; the runs stay as they are.
"""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.study.tracking import Run
from pipeline.support.files import read_json
from pipeline.support.schemas import MEAN, read_table

# A section's name -> the column that it shows, in probability and in log-odds.
CURVES = {"effect_by_dose": "target_effect", "log_odds_by_dose": "target_effect_log_odds"}
EQUAL = {"equal_cost_effect": "target_effect", "equal_cost_log_odds": "target_effect_log_odds"}
# A line by coefficient instead of by step, straight between its points.
AXIS = {"xAxisKey": "metric", "selectedXAxisMetricKey": "coefficient", "useGlobalXaxisKey": False}
# Sections in their own order, not sorted by name.
SHOWN = {
    "orderByKey": "attributes.start_time", "orderByAsc": False,
    "runsHiddenMode": "FIRST_20_RUNS", "isAccordionReordered": True,
}  # fmt: skip


def figures(headline: dict[str, dict[str, float]], equal: pl.DataFrame) -> dict[str, float]:
    """Return the main figures by `method/name` in four digits, which a column can show."""
    named = {
        f"{section}/{method}": effect
        for section, column in EQUAL.items()
        for method, effect in equal.select("method", column).rows()
    }
    named |= {f"{m}/{name}": value for m, row in headline.items() for name, value in row.items()}
    return {name: float(f"{value:.4g}") for name, value in named.items()}


def curves(effects: pl.DataFrame) -> list[tuple[int, dict[str, float]]]:
    """Return the effect by coefficient, 0 at 0. Steps are whole numbers, so thousandths of it."""
    rows = effects.filter(pl.col("seed") == MEAN).select("coefficient", "method", *CURVES.values())
    zeros = [(0.0, method, 0.0, 0.0) for method in rows["method"].unique(maintain_order=True)]
    points: dict[float, dict[str, float]] = {}
    for c, method, *both in sorted([*rows.rows(), *zeros], key=lambda row: row[0]):
        names = (f"{section}/{method}" for section in CURVES)
        points.setdefault(c, {"coefficient": c}).update(zip(names, both, strict=True))
    return [(round(1000 * c), metrics) for c, metrics in points.items()]


def chart(form: str, section: str, name: str) -> dict[str, Any]:
    key, axis = f"{section}/{name}", AXIS if section in CURVES else {}
    smooth = {"lineSmoothness": 0} if form == "LINE" else {}
    shown = {"type": form, "uuid": key, "metricSectionId": section, "metricKey": key}
    return shown | axis | smooth


def view(kind: str, columns: list[str], charts: list[tuple[str, str, str]]) -> dict[str, Any]:
    """Return the state of MLflow's runs page; a chart is its type, section and name."""
    sections = dict.fromkeys(section for _, section, _ in charts)
    named = [{"uuid": name, "name": name, "display": True} for name in sections]
    widths = {name: max(75, 6 * len(name) - 20) for name in columns}
    table = {"selectedColumns": columns, "columnOrder": columns, "columnWidths": widths}
    drawn = {"compareRunCharts": [chart(*one) for one in charts], "compareRunSections": named}
    return {"searchFilter": f"tags.kind = '{kind}'"} | SHOWN | table | drawn


def show(run: Run, reports: Path, effects: pl.DataFrame) -> None:
    """Put figures, curves and the table at equal cost on the parent run, and renew the views."""
    headline = read_json(reports / "metrics.json", "effects")
    equal = read_table(reports / "equal_cost.csv", "effects")
    run.curve([(0, figures(headline, equal)), *curves(effects)], parent=True)
    table = (reports / "tables" / "equal_cost.md").read_text(encoding="utf-8")
    said = f"Effect at equal cost, {equal['n_dilemmas'][0]} dilemmas (all: report.html, Artifacts)"
    run.describe(f"{said}\n\n{table}")
    columns = ["tags.`model`", "tags.`behaviour`", "params.`rank`"]
    columns += [f"metrics.`{section}/{method}`" for section in EQUAL for method in headline]
    sections = [*(("LINE", name) for name in CURVES), *(("BAR", name) for name in EQUAL)]
    charts = [(form, section, m) for form, section in sections for m in headline]
    run.save_view("Studies", view("pipeline", columns, charts))
    costs = [f"metrics.`{name}`" for name in ("seconds", "peak_memory_mb", "tokens_per_second")]
    losses = [("LINE", split, "loss") for split in ("train", "calibration")]
    run.save_view("Stages", view("stage", ["tags.`study`", "tags.`cached`", *costs], losses))
