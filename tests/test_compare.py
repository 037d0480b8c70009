"""`pipeline compare` on a small git repository with experiments as DVC names them."""

import subprocess
from pathlib import Path

import polars as pl
import pytest

from pipeline.app.compare import main
from pipeline.app.revisions import resolve
from pipeline.support.errors import InputError
from tests.test_tables import arm

PARAMS = """model: reference
behaviour: honesty
evalset: reference
methods: [innerpissa]
baselines: [prompting]
seeds: [0]
rank: {rank}
"""
LOCK = """schema: '2.0'
stages:
  train@innerpissa-0:
    cmd: train
    params:
      params.yaml:
        rank: {rank}
  train@innerpissa-7:
    cmd: train
    params:
      params.yaml:
        rank: 1
"""


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def study(rank: int, effect: float, extra: str = "") -> None:
    """Write the results of one run into the workspace."""
    Path("reports").mkdir(exist_ok=True)
    Path("params.yaml").write_text(PARAMS.format(rank=rank) + extra)
    Path("dvc.lock").write_text(LOCK.format(rank=rank))
    rows = {"innerpissa": effect, "prompting": 0.5}
    equal = [
        arm(m, e, calibrated=m != "prompting", budget_reached=m != "prompting" and rank < 64)
        for m, e in rows.items()
    ]
    pl.DataFrame(equal).write_csv("reports/equal_cost.csv")


@pytest.fixture
def repository(tmp_path, monkeypatch) -> str:
    """HEAD at rank 8, experiments rank-16 and rank-64, and one of two baselines called twice; the workspace is rank 8."""
    monkeypatch.chdir(tmp_path)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "test")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "test@example.org")
    run("git", "init", "-q")

    def commit() -> str:
        run("git", "add", "-A")
        run("git", "commit", "-qm", "a run")
        return run("git", "rev-parse", "HEAD")

    study(8, 0.01)
    head = commit()
    for rank, effect in ((16, 0.02), (64, 0.03)):
        study(rank, effect)
        run("git", "update-ref", f"refs/exps/{head[:2]}/{head[2:]}/rank-{rank}", commit())
        run("git", "reset", "-q", "--hard", head)
    for start in ("aa", "bb"):
        Path("more").write_text(start)
        run("git", "update-ref", f"refs/exps/{start}/{'0' * 38}/twice", commit())
        run("git", "reset", "-q", "--hard", head)
    return head


def test_one_number_that_differs_gives_a_curve(repository, capsys):
    main(["rank-64", "HEAD", "rank-16"], "out", [])
    rows = pl.read_csv("out/results.csv")
    curve = rows.filter(pl.col("method") == "innerpissa").sort("x")
    assert curve["x"].to_list() == [8, 16, 64]
    assert curve["target_effect"].to_list() == [0.01, 0.02, 0.03]
    table = Path("out/comparison.md").read_text()
    assert "| rank-64 | 64 | InnerPiSSA | 0.030 | [0.020, 0.040] | 0.010 | 0.150" in table
    assert "| 0.100 / 0.100 (budget not reached) | 2.50 / 1.25 |" in table
    assert table.count("not reached") == 1
    assert "no unit" in table
    assert table in capsys.readouterr().out
    drawn = Path("out/comparison.svg").read_text()
    assert all(
        f"<!-- {text} -->" in drawn for text in ("InnerPiSSA", "prompting", "rank", "8", "16", "64")
    )
    endings = {file.suffix for file in Path("out").iterdir()}
    assert endings == {".md", ".csv", ".tex", ".svg", ".png"}


def test_several_differences_give_places_and_the_workspace_counts(repository):
    study(8, 0.05, "quantisation: 4bit\n")
    main(["workspace", "rank-16", repository], "out", ["innerpissa"])
    rows = pl.read_csv("out/results.csv")
    assert rows["experiment"].to_list() == ["workspace", "rank-16", repository]
    assert rows["x"].null_count() == 3
    header = Path("out/comparison.csv").read_text().splitlines()[0]
    assert "rank,quantisation,Method" in header
    assert "prompting" not in Path("out/comparison.md").read_text()


def test_studies_that_differ_in_much_stand_side_by_side_with_their_marks(repository):
    """Parameters go to a table of their own; the model and the set stay in every row."""
    study(8, 0.05, "".join(f"extra_{number}: 1\n" for number in range(4)))
    other = Path("params.yaml").read_text().replace("model: reference", "model: other")
    Path("params.yaml").write_text(other)
    rows = pl.read_csv("reports/equal_cost.csv")
    undecided = pl.Series("sign_decided", [False, None])
    rows.with_columns(undecided, pl.lit(0.25).alias("base_share")).write_csv(
        "reports/equal_cost.csv"
    )
    main(["rank-64", "workspace"], "out", [])
    assert "| Method | rank-64 | workspace |" in (across := Path("out/across.md").read_text())
    marked = "0.250 [0.200, 0.300] (sign undecided)"
    unreached = "0.150 [0.100, 0.200] (budget not reached)"
    assert f"| InnerPiSSA | {unreached} | {marked} |" in across
    assert "the base prefers the target's side (%) | – | 25.0 |" in across
    parameters = Path("out/parameters.md").read_text()
    assert "| rank | 64 | 8 |" in parameters and "| extra_3 | – | 1 |" in parameters
    table = Path("out/comparison.md").read_text()
    assert "InnerPiSSA (sign undecided)" in table
    assert table.startswith("| Experiment | model | Method |")


def test_a_folder_that_a_named_study_has_kept_counts_too(repository):
    study(32, 0.07)
    kept = Path("reports/full")
    kept.mkdir()
    Path("params.yaml").rename(kept / "params.yaml")
    Path("reports/equal_cost.csv").rename(kept / "equal_cost.csv")
    main(["reports/full", "rank-16"], "out", ["innerpissa"])
    rows = pl.read_csv("out/results.csv")
    assert rows.select("experiment", "x", "target_effect").rows() == [
        ("reports/full", 32, 0.07),
        ("rank-16", 16, 0.02),
    ]


def test_nothing_else_in_the_folder_is_touched(repository):
    main(["HEAD", "rank-16"], "reports", [])
    assert Path("reports/equal_cost.csv").exists()


@pytest.mark.parametrize(("names", "only", "said"), [
    (["nope", "HEAD"], [], "'nope' is no experiment and no git revision: there are workspace, rank-16, rank-64, twice and"),
    (["twice", "HEAD"], [], "2 experiments are called 'twice'"),
    (["HEAD", "HEAD"], [], "names something twice"),
    (["HEAD", "rank-16"], ["lora"], "none of the experiments has a method called lora"),
])  # fmt: skip
def test_a_wrong_name_gets_one_sentence(repository, names, only, said):
    with pytest.raises(InputError, match=said):
        main(names, "out", only)
    assert not Path("out").exists()


def test_results_of_other_parameters_are_refused(repository):
    """A failed experiment holds its own params.yaml with its baseline's results."""
    Path("params.yaml").write_text(PARAMS.format(rank=32))
    with pytest.raises(
        InputError, match="workspace: the results are of another rank than its params.yaml"
    ):
        main(["workspace", "HEAD"], "out", [])
    Path("reports/equal_cost.csv").unlink()
    with pytest.raises(InputError, match="workspace has no reports/equal_cost.csv"):
        main(["workspace", "HEAD"], "out", [])


@pytest.mark.parametrize("column", ["target_effect_log_odds", "budget_reached"])
def test_results_of_older_versions_are_refused(repository, column):
    old = pl.read_csv("reports/equal_cost.csv").drop(column)
    old.write_csv("reports/equal_cost.csv")
    with pytest.raises(
        InputError, match="workspace lacks effects in log-odds or a common unit.*run it again"
    ):
        main(["workspace", "rank-16"], "out", [])


def test_a_branch_called_like_an_experiment_gives_way(repository):
    run("git", "branch", "rank-16")
    assert resolve("rank-16") != repository
