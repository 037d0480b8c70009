"""A study in MLflow at a glance: its parent run, and the saved views "Studies" of all parent runs
and "Stages" of all others.

A view is a tag of the experiment in the form in which MLflow 3's page keeps its own saved views.
Another version that does not know the form leaves the views out; the runs stay as they are.
"""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.study.tracking import Run
from pipeline.support.files import read_json
from pipeline.support.schemas import MEAN, read_table

CURVE = "effect_by_dose"
EQUAL = "equal_cost_effect"


def figures(headline: dict[str, dict[str, float]], equal: pl.DataFrame) -> dict[str, float]:
    """Return the main figures by `method/name` in four digits, which a column can show;
    metrics.json has them in full.
    """
    found = {
        f"{EQUAL}/{method}": effect
        for method, effect in equal.select("method", "target_effect").iter_rows()
    }
    found |= {
        f"{method}/{name}": value for method, row in headline.items() for name, value in row.items()
    }
    return {name: float(f"{value:.4g}") for name, value in found.items()}


def curves(effects: pl.DataFrame) -> list[tuple[int, dict[str, float]]]:
    """Return the effect by coefficient. Steps are whole numbers, so they count in thousandths; at 0
    every effect is 0.
    """
    means = effects.filter(pl.col("seed") == MEAN)
    points = {c: {"coefficient": c} for c in sorted({0.0, *means["coefficient"]})}
    points[0.0] |= {
        f"{CURVE}/{method}": 0.0 for method in means["method"].unique(maintain_order=True)
    }
    for row in means.iter_rows(named=True):
        points[row["coefficient"]] |= {f"{CURVE}/{row['method']}": row["target_effect"]}
    return [(round(1000 * c), metrics) for c, metrics in points.items()]


def studies_view(methods: list[str]) -> dict[str, Any]:
    """Return the view of parent runs: their effects as columns, their curves and bars as charts."""
    columns = [
        "tags.`model`",
        "tags.`behaviour`",
        "params.`rank`",
        *(f"metrics.`{EQUAL}/{method}`" for method in methods),
    ]
    by_dose = {
        "xAxisKey": "metric",
        "selectedXAxisMetricKey": "coefficient",
        "useGlobalXaxisKey": False,
    }
    charts = [chart("LINE", CURVE, method, **by_dose) for method in methods]
    charts += [chart("BAR", EQUAL, method) for method in methods]
    return view("tags.kind = 'pipeline'", columns, charts)


def stages_view() -> dict[str, Any]:
    """Return the view of all stages: which were cached, what each cost, the losses by step."""
    columns = [
        "tags.`study`",
        "tags.`cached`",
        *(f"metrics.`{name}`" for name in ("seconds", "peak_memory_mb", "tokens_per_second")),
    ]
    return view(
        "tags.kind = 'stage'",
        columns,
        [chart("LINE", split, "loss") for split in ("train", "calibration")],
    )


def chart(kind: str, section: str, name: str, **options: Any) -> dict[str, Any]:
    """Return one chart of the metric `section/name` of all runs."""
    metric = f"{section}/{name}"
    found = {"type": kind, "uuid": metric, "metricSectionId": section, "metricKey": metric}
    return found | ({"lineSmoothness": 0} if kind == "LINE" else {}) | options


def view(runs: str, columns: list[str], charts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the state of MLflow's runs page: which runs, newest first, which columns, which charts
    in which sections.
    """
    sections = list(dict.fromkeys(chart["metricSectionId"] for chart in charts))
    return {
        "searchFilter": runs,
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": {name: max(75, 6 * len(name) - 20) for name in columns},
        "runsHiddenMode": "FIRST_20_RUNS",
        "isAccordionReordered": True,  # else the sections would be sorted by name
        "compareRunCharts": charts,
        "compareRunSections": [{"uuid": name, "name": name, "display": True} for name in sections],
    }


def show(run: Run, reports: Path, effects: pl.DataFrame) -> None:
    """Put the main figures, the curves and the table at equal cost on the parent run, and renew the
    views.
    """
    headline = read_json(reports / "metrics.json", "effects")
    equal = read_table(reports / "equal_cost.csv", "effects")
    run.curve([(0, figures(headline, equal))], parent=True)
    run.curve(curves(effects), parent=True)
    table = (reports / "tables" / "equal_cost.md").read_text()
    run.describe(
        f"Effect at equal cost, {equal['n_dilemmas'][0]} dilemmas (all of it: report.html under "
        f"Artifacts)\n\n{table}"
    )
    run.save_view("Studies", studies_view(list(headline)))
    run.save_view("Stages", stages_view())
