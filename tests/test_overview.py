"""What MLflow shows of a study: figures that a column can hold, the effect by coefficient, a view whose names all exist."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from pipeline.study import overview

ROOT = Path(__file__).parent.parent
EFFECTS = pl.DataFrame({
    "method": ["a", "a", "a", "b", "b"], "seed": ["mean", "mean", "0", "mean", "mean"],
    "coefficient": [0.5, -2.0, 0.5, 0.5, -0.5], "target_effect": [0.1, -0.2, 9.0, 0.3, -0.3],
    "target_effect_log_odds": [0.5, -1.0, 9.0, 1.5, -1.5],
})  # fmt: skip
EQUAL = pl.DataFrame({
    "method": ["a", "b"], "target_effect": [0.123456, -0.2], "n_dilemmas": [7, 7],
    "target_effect_log_odds": [0.6, -1.0],
})  # fmt: skip
HEADLINE = {"a": {"target_effect": 0.1, "side_effect": 1 / 3}, "b": {"target_effect": 0.3}}
SHOW = """
import sys
from pathlib import Path
import polars as pl
from pipeline.study import overview
from pipeline.study.declared import Declared
from pipeline.study.tracking import tracked
with tracked("report", Declared(rank=4)) as run:
    overview.show(run, Path("reports"), pl.read_csv("effects.csv", schema_overrides={"seed": pl.String}))
    run.complete([{"stage": "train@a-0", "metrics": {"loss": 1.0}}])
"""


def test_the_effect_by_coefficient_has_whole_steps_and_passes_the_base_model():
    found = overview.curves(EFFECTS)
    assert [step for step, _ in found] == [-2000, -500, 0, 500]
    names = [f"{section}/{method}" for method in "ab" for section in overview.CURVES]
    assert found[0][1] == {"coefficient": -2.0, names[0]: -0.2, names[1]: -1.0}
    assert found[2][1] == {"coefficient": 0.0} | dict.fromkeys(names, 0.0)
    values = (0.1, 0.5, 0.3, 1.5)
    assert found[3][1] == {"coefficient": 0.5} | dict(zip(names, values, strict=True))


def test_figures_have_four_digits_and_the_effect_at_equal_cost_comes_first():
    found = overview.figures(HEADLINE, EQUAL)
    effects = [f"{section}/{method}" for section in overview.EQUAL for method in "ab"]
    others = ["a/side_effect", "b/target_effect"]
    assert list(found) == [*effects, "a/target_effect", *others]
    assert found["equal_cost_effect/a"] == 0.1235
    assert found["a/side_effect"] == 0.3333


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Show a small report in a store of its own; return the client, the experiment and the runs by name."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("study")
    shutil.copy(ROOT / "params.yaml", folder)
    (folder / "reports" / "tables").mkdir(parents=True)
    (folder / "reports" / "metrics.json").write_text(json.dumps(HEADLINE))
    (folder / "reports" / "tables" / "equal_cost.md").write_text(
        "| Method | Effect |\n|:--|--:|\n| a | 0.123 |\n"
    )
    EQUAL.write_csv(folder / "reports" / "equal_cost.csv")
    EFFECTS.write_csv(folder / "effects.csv")
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_", "INNERPISSA_"))
    }
    own = {
        "DVC_ROOT": str(folder),
        "DVC_EXP_NAME": "mine",
        "DVC_EXP_BASELINE_REV": "0123456789abcdef",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", SHOW], cwd=folder, env=kept | own, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "tracking failed" not in done.stdout
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("innerpissa")
    return experiment, {
        run.info.run_name: run for run in client.search_runs([experiment.experiment_id])
    }


def test_the_parent_run_says_what_it_is(store):
    parent = store[1]["mine"]
    tags = parent.data.tags
    expected = {
        "kind": "pipeline", "model": "reference", "behaviour": "honesty", "evalset": "reference", "synthetic": "true",
        "commit": "0123456789", "pipeline.complete": "true",
    }  # fmt: skip
    assert expected.items() <= tags.items()
    assert "7 dilemmas" in tags["mlflow.note.content"]
    assert "| a | 0.123 |" in tags["mlflow.note.content"]
    assert parent.info.status == "FINISHED"


def test_stages_name_their_study_also_when_cached(store):
    for name, cached in {"report": None, "train@a-0": "true"}.items():
        tags = store[1][name].data.tags
        assert (tags["study"], tags.get("cached")) == ("mine", cached)
        assert tags["mlflow.parentRunId"] == store[1]["mine"].info.run_id


def test_the_saved_view_names_metrics_tags_and_parameters_that_the_parent_has(store):
    experiment, runs = store
    view = json.loads(experiment.tags["mlflow.sharedViewState.studies"])
    assert view["name"] == "Studies"
    assert isinstance(view["createdAt"], int)
    state, data = json.loads(view["state"]), runs["mine"].data
    for column in state["selectedColumns"]:
        kind, _, name = column.partition(".")
        assert name.strip("`") in getattr(data, kind), column
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert sorted(chart["metricKey"] for chart in state["compareRunCharts"]) == sorted(
        f"{section}/{method}" for section in sections for method in ("a", "b")
    )
    for chart in state["compareRunCharts"]:
        assert chart["metricKey"] in data.metrics
        assert chart["metricSectionId"] in sections
        assert chart.get("selectedXAxisMetricKey", "coefficient") in data.metrics


def test_the_view_of_stages_names_what_stages_have(store):
    experiment, runs = store
    state = json.loads(json.loads(experiment.tags["mlflow.sharedViewState.stages"])["state"])
    assert state["searchFilter"] == "tags.kind = 'stage'"
    for column in state["selectedColumns"]:
        kind, _, name = column.partition(".")
        # Only stages that run the model count tokens.
        assert name == "`tokens_per_second`" or any(
            name.strip("`") in getattr(runs[stage].data, kind) for stage in ("report", "train@a-0")
        )
