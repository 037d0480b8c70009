"""A behaviour from two words: its file, and a study that trains and writes without a target."""

import json
import shutil

import polars as pl
import pytest

from pipeline.app.behaviour import main
from pipeline.study.behaviours import UNTARGETED, load_behaviour, target_of
from pipeline.support.errors import InputError
from pipeline.support.paths import behaviour_file
from tests.conftest import ROOT, make_tiny
from tests.project import shrink
from tests.test_bad_input_stages import STAGES, arguments, edit, run

WORDS = ["--positive", "a funny", "--negative", "a serious"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_words_make_a_behaviour(here):
    main("humour", "a funny", "a: serious, 'dry'", False)
    found = load_behaviour(behaviour_file("humour"))
    assert found.sentences() == [
        ("Pretend you're a funny person.", "Pretend you're a: serious, 'dry' person.")
    ]
    assert found.engineered is found.probes is None
    assert target_of(behaviour_file("humour"), "everyday", ["Value/truth"]) is UNTARGETED


def test_a_file_that_exists_is_replaced_by_force_alone(here):
    main("humour", "a funny", "a serious", False)
    before = behaviour_file("humour").read_bytes()
    with pytest.raises(InputError, match=r"humour\.yaml exists: take another name, or --force"):
        main("humour", "a witty", "a dull", False)
    assert behaviour_file("humour").read_bytes() == before
    main("humour", "a witty", "a dull", True)
    assert load_behaviour(behaviour_file("humour")).personas == [("a witty", "a dull")]


@pytest.mark.parametrize(("name", "positive", "negative", "said"), [
    ("../humour", "a funny", "a serious", "'../humour' is not an id: use lower-case"),
    ("humour", "a funny", " a funny", "the positive and the negative persona are both 'a funny'"),
    ("humour", " ", "a serious", r"personas\.0\.0: .*found ' '"),
])  # fmt: skip
def test_words_that_make_none_leave_no_file(here, name, positive, negative, said):
    with pytest.raises(InputError, match=said):
        main(name, positive, negative, False)
    assert not list(here.rglob("*.yaml"))


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of a behaviour from two words, by the stages' own commands."""
    folder = tmp_path_factory.mktemp("humour")
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "data/raw", folder / "data/raw")
    (folder / "pipeline").symlink_to(ROOT / "pipeline")
    make_tiny(folder / "models/reference")
    shrink(folder / "params.yaml", ["innerpissa"], ["mean_diff", "random"])

    def small(params) -> None:
        params.update(behaviour="humour")
        params["composition"].update(behaviours=[])
        params["steering"]["random"].update(directions=2)
        params["generation"].update(coherence_tokens=4)

    edit(folder / "params.yaml", small)
    with pytest.MonkeyPatch.context() as patch:
        assert run(patch, folder, ["behaviour", "humour", *WORDS]) == 0
        for stage in STAGES:
            assert run(patch, folder, arguments(stage)) == 0, stage
            if "baselines" in stage:
                assert run(patch, folder, [*arguments(stage)[:-1], "random"]) == 0
    return folder


def test_a_study_without_a_target_trains_certifies_and_writes_texts(study):
    adapter = study / "models/adapters/innerpissa/seed0"
    dose = json.loads((adapter / "steering.json").read_text(encoding="utf-8"))["dose"]
    assert dose["raw_positive"] > 0
    shown = study / "reports/tables"
    assert pl.read_csv(shown / "certificates.csv").height == 1
    doses = pl.read_csv(shown / "doses.csv")  # no probes, so no free sign is decided
    assert doses["Method"].to_list() == [
        "InnerPiSSA (sign undecided)", "mean difference", "random directions", "random directions",
    ]  # fmt: skip
    texts = pl.read_csv(shown / "texts.csv")
    assert texts.columns == ["Prompt", "Method", "c = −1", "c = 0", "c = +1"]
    written = {
        cell: pl.read_parquet(study / f"data/scores/{cell}/coherence.parquet")
        for cell in ("base", "innerpissa-seed0")
    }
    assert texts.height == 3 * written["base"].height
    own = texts.filter(pl.col("Method").str.starts_with("InnerPiSSA"))
    for column, cell, c in (
        ("c = −1", "innerpissa-seed0", -1), ("c = 0", "base", 0), ("c = +1", "innerpissa-seed0", 1),
    ):  # fmt: skip
        said = written[cell].filter(pl.col("coefficient") == c).sort("prompt_id")["text"]
        assert own[column].fill_null("").to_list() == [" ".join(text.split()) for text in said]


def test_it_says_what_it_cannot_measure(study, monkeypatch, capsys):
    said = "humour.yaml has no target for 'reference', so no effect is measured: judge by"
    page = (study / "reports/report.html").read_text(encoding="utf-8").replace("&#39;", "'")
    assert page.count(said) == 1
    assert "random directions (2)" in page
    assert "No texts were written" not in page
    for stage in ("evalset", "effects"):
        capsys.readouterr()
        assert run(monkeypatch, study, [stage]) == 0
        assert said in capsys.readouterr().out
    for name in ("effects", "arms", "equal_cost"):
        assert pl.read_csv(study / f"reports/{name}.csv").is_empty()
    assert pl.read_csv(study / "reports/values.csv")["method"].n_unique() == 3
    assert run(monkeypatch, study, ["compare", "workspace"]) == 2
    assert "workspace measures no effect, as its behaviour has no" in capsys.readouterr().err


def test_the_page_asks_for_texts_where_none_were_written(study, monkeypatch):
    edit(study / "params.yaml", lambda p: p["generation"].update(coherence_tokens=0))
    for stage in ("effects", "report"):
        assert run(monkeypatch, study, [stage]) == 0
    page = (study / "reports/report.html").read_text(encoding="utf-8")
    assert "No texts were written: set" in page
    assert not (study / "reports/tables/texts.csv").exists()


def test_engineered_prompts_that_are_not_there_are_refused(study, monkeypatch, capsys):
    edit(study / "params.yaml", lambda p: p.update(baselines=["prompting_engineered"]))
    assert run(monkeypatch, study, ["code"]) == 0
    assert run(monkeypatch, study, ["baselines", "prompting_engineered"]) == 2
    assert "error: the behaviour has no engineered prompts: add" in capsys.readouterr().err
