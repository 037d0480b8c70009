"""A study in MLflow at a glance: its parent run, and the saved view "Studies" of all parent runs.

The view is a tag of the experiment in the form in which MLflow 3's page keeps its own saved views. Another version that does not
know the form leaves the view out; the runs stay as they are.
"""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.files import read_json
from pipeline.schemas import MEAN, read_table
from pipeline.tracking import Run

CURVE = "effect_by_coefficient"
EQUAL = "equal_cost_effect"


def figures(headline: dict[str, dict[str, float]], equal: pl.DataFrame) -> dict[str, float]:
    """Return the main figures by `method/name` in four digits, which a column can show; metrics.json has them in full."""
    found: dict[str, float] = {}
    for method, row in headline.items():
        row = row | {EQUAL: equal.filter(pl.col("method") == method)["target_effect"].item()}
        found |= {f"{method}/{name}": float(f"{value:.4g}") for name, value in row.items()}
    return found


def curves(effects: pl.DataFrame) -> list[tuple[int, dict[str, float]]]:
    """Return the effect by coefficient. Steps are whole numbers, so they count in thousandths; at 0 every effect is 0."""
    means = effects.filter(pl.col("seed") == MEAN)
    points = {c: {"coefficient": c} for c in sorted({0.0, *means["coefficient"]})}
    points[0.0] |= {f"{CURVE}/{method}": 0.0 for method in means["method"].unique(maintain_order=True)}
    for row in means.iter_rows(named=True):
        points[row["coefficient"]] |= {f"{CURVE}/{row['method']}": row["target_effect"]}
    return [(round(1000 * c), metrics) for c, metrics in points.items()]


def studies_view(methods: list[str]) -> dict[str, Any]:
    """Return the state of MLflow's runs page: parent runs only, their figures as columns, their curves and bars as charts."""
    effects = [f"metrics.`{method}/{name}`" for name in (EQUAL, "target_effect") for method in methods]
    columns = ["tags.`model`", "tags.`behaviour`", "params.`rank`", *effects]
    sections = {"curve": "Effect by coefficient", "bar": "Effect at equal cost"}
    charts = [chart("LINE", "curve", method, f"{CURVE}/{method}") for method in methods]
    charts += [chart("BAR", "bar", method, f"{method}/{EQUAL}") for method in methods]
    return {
        "searchFilter": "tags.kind = 'pipeline'",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {name: max(75, 8 * len(name) - 60) for name in columns},
        "runsHiddenMode": "FIRST_20_RUNS",
        "isAccordionReordered": True,  # else the sections would be sorted by name
        "compareRunCharts": charts,
        "compareRunSections": [{"uuid": key, "name": name, "display": True} for key, name in sections.items()],
    }


def chart(kind: str, section: str, method: str, metric: str) -> dict[str, Any]:
    common = {"type": kind, "uuid": f"{section}-{method}", "metricSectionId": section, "displayName": method, "metricKey": metric}
    if kind == "BAR":
        return common
    return common | {"xAxisKey": "metric", "selectedXAxisMetricKey": "coefficient", "useGlobalXaxisKey": False}


def show(run: Run, reports: Path, effects: pl.DataFrame) -> None:
    """Put the main figures, the curves and the table at equal cost on the parent run, and renew the view."""
    headline = read_json(reports / "metrics.json", "effects")
    equal = read_table(reports / "equal_cost.csv", "effects")
    run.curve([(0, figures(headline, equal))], parent=True)
    run.curve(curves(effects), parent=True)
    table = (reports / "tables" / "equal_cost.md").read_text()
    run.describe(f"Effect at equal cost, {equal['n_dilemmas'][0]} dilemmas (all of it: report.html under Artifacts)\n\n{table}")
    run.save_view("Studies", studies_view(list(headline)))
