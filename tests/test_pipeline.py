"""The real thing: `dvc repro` and `dvc exp run` on a tiny model in a clone, tracked in MLflow."""

import json
import re
import subprocess

import polars as pl
import pytest
from ruamel.yaml import YAML

from tests.project import RUNNING, Project, environment, make_project

pytestmark = pytest.mark.slow

LEARNED, BASELINES = (
    ["innerpissa", "innerpissa_norotation", "antipasto"],
    ["prompting", "mean_diff"],
)
LOW_RANK = [f"{stage}@{method}-0" for stage in ("train", "evaluate") for method in LEARNED] + [
    "composition",
    "effects",
    "report",
]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Project:
    return make_project(tmp_path_factory.mktemp("clone") / "project", LEARNED, BASELINES)


@pytest.fixture(scope="module")
def done(project) -> list[str]:
    return project.repro()


def test_one_command_makes_the_whole_study(project, done):
    cells = [f"{stage}@{method}-0" for stage in ("train", "evaluate") for method in LEARNED]
    cells += [
        f"{stage}@{method}" for stage in ("baselines", "evaluate_baselines") for method in BASELINES
    ]
    single = [
        "model",
        "pairs",
        "checks",
        "svd",
        "evalset",
        "code",
        "base",
        "composition",
        "effects",
        "report",
    ]
    assert sorted(done) == sorted([*single, *cells])
    reports = project.folder / "reports"
    for name in (
        "tables/source.md",
        "tables/full.tex",
        "tables/values.csv",
        "tables/equal_cost.md",
        "tables/ablation.md",
        "tables/certificates.md",
        "tables/composition.md",
        "figures/effect_vs_coherence.png",
        "figures/dose_response.svg",
        "figures/training.svg",
    ):
        assert (reports / name).stat().st_size > 200
    page = (reports / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 6
    assert "Synthetic." in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert set(json.loads((reports / "metrics.json").read_text())) == {*LEARNED, *BASELINES}


def test_the_tables_are_the_scores(project, done):
    """Recompute one cell of effects.csv from the raw scores by hand."""
    data = project.folder / "data"
    items = pl.read_parquet(data / "items/items.parquet").filter(pl.col("label_Value/honesty") != 0)
    base, moved = (
        pl.read_parquet(data / f"scores/{name}/scores.parquet")
        for name in ("base", "innerpissa-seed0")
    )

    def chosen(scores: pl.DataFrame) -> float:
        rows = items.join(scores, on="item_id")
        yes = 1 / (1 + (-rows["log_odds"]).exp())
        return pl.select(
            pl.when(rows["label_Value/honesty"] > 0).then(yes).otherwise(1 - yes).mean()
        ).item()

    expected = chosen(moved.filter(pl.col("coefficient") == 1)) - chosen(base)
    effects = pl.read_csv(
        project.folder / "reports/effects.csv", schema_overrides={"seed": pl.String}
    )
    row = effects.filter(
        (pl.col("method") == "innerpissa")
        & (pl.col("coefficient") == 1)
        & (pl.col("seed") == "mean")
    )
    assert row["target_effect"].item() == pytest.approx(expected)


def test_a_second_run_does_nothing(project, done):
    assert project.repro() == []


def test_the_rank_reruns_training_evaluation_effects_and_report(project, done):
    found = RUNNING.findall(project.run("dvc", "exp", "run", "-n", "rank-8", "-S", "rank=8"))
    assert sorted(found) == sorted(LOW_RANK)
    assert "rank" in project.run("dvc", "params", "diff", "HEAD", "rank-8", "--md")
    assert "innerpissa.target_effect" in project.run(
        "dvc", "metrics", "diff", "HEAD", "rank-8", "--all", "--md"
    )


def test_a_field_of_one_section_reruns_its_own_cells_and_its_variants(project, done):
    """An ablation's cell knows the section that it varies, and no other method's."""
    ran = RUNNING.findall(project.run("dvc", "repro", "--dry", "train", "baselines"))
    assert ran == []
    text = (project.folder / "params.yaml").read_text()
    yaml = YAML()
    params = yaml.load(text)
    params["steering"]["innerpissa"]["rotation_init_std"] *= 2
    yaml.dump(params, project.folder / "params.yaml")
    project.run("dvc", "repro", "code")
    ran = RUNNING.findall(project.run("dvc", "repro", "--dry", "train", "baselines"))
    (project.folder / "params.yaml").write_text(text)
    project.run("dvc", "repro", "code")
    assert sorted(ran) == [
        "train@innerpissa-0",
        "train@innerpissa_norotation-0",
    ]  # DVC orders cells by itself


def test_one_costs_the_budget_and_what_it_stands_for_is_shown(project, done):
    folder = project.folder
    about = json.loads((folder / "models/adapters/innerpissa/seed0/steering.json").read_text())
    scores = pl.read_parquet(folder / "data/scores/innerpissa-seed0/scores.parquet")
    assert {-1.0, 1.0} <= set(scores["coefficient"])
    equal = pl.read_csv(folder / "reports/equal_cost.csv").filter(pl.col("method") == "innerpissa")
    assert equal["raw_positive"].item() == pytest.approx(about["unit"]["positive"])
    assert equal["cost_negative"].item() == pytest.approx(about["dose"]["cost_negative"])
    certificate = json.loads(
        (folder / "models/adapters/antipasto/seed0/certificate.json").read_text()
    )
    assert certificate["zero"] == certificate["reload"] == certificate["restored"] == 0
    composed = pl.read_csv(folder / "reports/composition.csv")
    assert composed.height == 16
    assert set(composed["target"]) == {"Value/honesty", "Value/kindness"}


def test_both_executions_show_the_whole_pipeline_in_mlflow(project, done):
    test_the_rank_reruns_training_evaluation_effects_and_report(project, done) if len(
        project.parents()
    ) < 2 else None
    first, second = project.parents()[:2]
    assert second.info.run_name == "rank-8"
    assert (first.data.params["rank"], second.data.params["rank"]) == ("16", "8")
    for parent in (first, second):
        assert parent.info.status == "FINISHED"
        assert parent.data.tags["pipeline.complete"] == "true"
        assert {
            "innerpissa/target_effect",
            "equal_cost_effect/innerpissa",
            "effect_by_dose/innerpissa",
        } <= set(parent.data.metrics)
        children = project.children(parent)
        assert set(children) == set(done)
        assert {run.info.status for run in children.values()} == {"FINISHED"}
    cached = {
        name
        for name, run in project.children(second).items()
        if run.data.tags.get("cached") == "true"
    }
    assert cached == set(done) - set(LOW_RANK)
    assert project.children(first)["train@innerpissa-0"].data.metrics["train/loss"]


def test_what_is_unknown_is_refused_before_anything_runs(project, done):
    for change, said in {
        "methods=[foo]": "'foo' in `methods` has no section",
        "rank=abc": "rank: Input should be a valid integer",
        "methods=[pca]": "put it in `baselines`",
        "model=qwen9": "model is 'qwen9'|models.qwen9",
    }.items():
        folder = project.folder
        before = (folder / "params.yaml").read_text(), (folder / "dvc.lock").read_text()
        found = subprocess.run(
            ["dvc", "exp", "run", "-S", change],
            cwd=folder,
            capture_output=True,
            text=True,
            env=environment(),
        )
        assert found.returncode != 0
        assert re.search(said, found.stdout + found.stderr), found.stdout + found.stderr
        assert len(RUNNING.findall(found.stdout)) <= 1
        (folder / "params.yaml").write_text(before[0])
        (folder / "dvc.lock").write_text(before[1])
        project.run("dvc", "checkout", "--force")


def test_tracking_that_fails_does_not_change_or_stop_a_result(project, done):
    model = project.folder / "models/base/manifest.json"
    before = model.read_text()
    model.unlink()
    text = project.run(
        "python", "-m", "pipeline", "model", MLFLOW_TRACKING_URI="sqlite:////proc/nowhere/all.db"
    )
    assert "tracking failed and is left out" in text
    assert model.read_text() == before


def test_an_edit_of_the_parameters_during_a_stage_is_caught(project, done):
    code = """
from pathlib import Path
from pipeline.stages import pairs
def late(*args, **kwargs):
    text = Path("params.yaml").read_text()
    Path("params.yaml").write_text(text.replace("max_pairs: 24", "max_pairs: 25"))
    return original(*args, **kwargs)
original, pairs.draw_pairs = pairs.draw_pairs, late
from pipeline.support.errors import InputError
try:
    pairs.main()
except InputError as error:
    print("refused:", error)
"""
    text = (project.folder / "params.yaml").read_text()
    found = project.run(
        "python", "-c", code, INNERPISSA_TRACKING="off", PYTHONPATH=str(project.folder)
    )
    (project.folder / "params.yaml").write_text(text)
    assert "refused: params.yaml changed while the stage was running" in found
