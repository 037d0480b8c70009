"""params.yaml: typed, complete, and refused with one sentence."""

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.evalsets import EVALSETS
from pipeline.steering import METHODS
from pipeline.study.behaviours import load_behaviour
from pipeline.study.declared import stage_params
from pipeline.study.pairs import build_pairs, load_suffixes, mix
from pipeline.study.params import load_params
from pipeline.support.errors import InputError
from pipeline.support.section import read_yaml
from pipeline.support.sections import PairsParams
from tests.conftest import BASELINES, LEARNED

ROOT = Path(__file__).parent.parent
yaml = YAML(typ="safe")


def changed(tmp_path: Path, edit) -> Path:
    params = yaml.load(ROOT / "params.yaml")
    edit(params)
    file = tmp_path / "params.yaml"
    YAML().dump(params, file)
    return file


def test_the_shipped_file_is_valid_and_complete():
    params = load_params(ROOT / "params.yaml")
    assert set(METHODS) <= set(params.steering)
    assert {section.method for section in params.steering.values()} == set(METHODS)
    full = read_yaml(ROOT / "data/studies/full.yaml")
    assert set(METHODS) <= {*full["methods"], *full["baselines"]} <= set(params.steering)
    assert set(LEARNED) | set(BASELINES) == set(METHODS)


def test_one_command_runs_every_section():
    study = read_yaml(ROOT / "data/studies/variants.yaml")
    assert sorted([*study["methods"], *study["baselines"]]) == sorted(load_params().steering)


@pytest.mark.parametrize(("edit", "said"), [
    (lambda p: p.update(rnak=1), r"rnak: .*not permitted"),
    (lambda p: p.update(rank="abc"), r"rank: .*integer.*found 'abc'"),
    (lambda p: p.update(rank=1), r"rank: .*greater than or equal to 2"),
    (lambda p: p.pop("rank"), r"rank: Field required"),
    (lambda p: p.update(model="qwen9"), r"model is 'qwen9': allowed are reference"),
    (lambda p: p.update(model="a.b"), r"model: 'a\.b' is not an id"),
    (lambda p: p.update(evalset="mmlu"), r"evalset is 'mmlu': allowed are reference"),
    (lambda p: p.update(methods=["foo"]), r"'foo' in `methods` has no section under steering: there are innerpissa"),
    (lambda p: p.update(methods=["pca"]), r"'pca' does not belong in `methods`: put it in `baselines`"),
    (lambda p: p.update(methods=["innerpissa", "innerpissa"]), "names something twice"),
    (lambda p: p.update(methods=[], baselines=[]), "both empty"),
    (lambda p: p.update(seeds=[]), "seeds: .*at least 1"),
    (lambda p: p.update(coefficients=[0, 1]), "for each coefficient, its negative"),
    (lambda p: p.update(coefficients=[-1, 1]), "must hold -1, 0, 1"),
    (lambda p: p.update(coefficients=[-2, 0, 2]), "must hold -1, 0, 1"),
    (lambda p: p["steering"].update(foo={}), "'foo' is unknown here: name one of innerpissa"),
    (lambda p: p["steering"].pop("mean_diff"), "'mean_diff' in `baselines` has no section under steering"),
    (lambda p: p["steering"].update(foo={"method": "bar"}), "steering.foo: method 'bar' has no section"),
    (lambda p: p["steering"].update(a={"method": "b"}, b={"method": "a"}), "steering.a names itself through a -> b -> a"),
    (lambda p: p["steering"].update(foo=3), "steering.foo is 3: it must be a section"),
    (lambda p: p["steering"]["lora"].update(loss="dpo"), "loss 'dpo' names none of contrastive, antiparallel"),
    (lambda p: p["steering"]["lora"].update(loss={"of": "contrastive", "wieght": 1}), "wieght"),
    (lambda p: p["losses"]["contrastive"].update(form="cubic"), r"losses: .*form|form"),
    (lambda p: p["losses"]["antiparallel"].update(subspace=[]), "subspace"),
    (lambda p: p["losses"].update(dpo={}), "'dpo' is unknown here: name one of contrastive, antiparallel"),
    (lambda p: p["composition"].update(behaviours=["honesty"]), "name two different ones, or none"),
    (lambda p: p["composition"].update(method="pca"), "'pca' does not belong in `composition.method`"),
    (lambda p: (p["scoring"].update(form="both"), p["generation"].update(reasoning_tokens=8)),
     "scoring.form is 'both', which cannot follow reasoning: set generation.reasoning_tokens 0"),
    (lambda p: p["dose"].update(budget=0), r"dose\.budget: .*greater than 0"),
    (lambda p: p["modules"].update(n_modules=0), r"modules\.n_modules: .*greater than or equal to 1"),
    (lambda p: p["steering"]["innerpissa"].update(rotate="w"), "steering.*rotate|rotate"),
    (lambda p: p["steering"]["innerpissa"].update(rotate="none", scaling="none"), "nothing is learnt"),
    (lambda p: p["steering"]["pca"].update(k=3), "k"),
    (lambda p: p["training"].update(clip_norm="fast"), r"training\.clip_norm: .*number.*found 'fast'"),
    (lambda p: p["training"].update(loss_depth=0.2), "to_depth <= training.loss_depth"),
    (lambda p: p.update(quantisation="2bit"), r"quantisation: .*'none', '8bit' or '4bit'.*found '2bit'"),
    (lambda p: p["models"]["reference"].update(quantisation=4), r"models\.reference\.quantisation: .*'none'"),
    (lambda p: p["models"]["reference"].update(answer_prefix=""), r"models\.reference\.answer_prefix"),
    (lambda p: p["models"]["reference"].update(dtype="int3"), r"models\.reference\.dtype: .*'float32'"),
])  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, edit, said):
    with pytest.raises(InputError) as caught:
        load_params(changed(tmp_path, edit))
    assert re.search(said, str(caught.value)), caught.value
    assert "\n" not in str(caught.value)


def test_a_variant_is_its_methods_section_with_what_it_overrides(tmp_path):
    def edit(p):
        p["steering"]["plain"] = {"method": "innerpissa", "rotate": "none"}
        p["steering"]["free"] = {
            "method": "plain",
            "loss": {"of": "contrastive", "coherence_weight": 0},
        }
        p["steering"]["innerpissa"]["lr"] = 0.125

    found = load_params(changed(tmp_path, edit)).steering
    assert found["plain"] == found["innerpissa"].model_copy(update={"rotate": "none"})
    assert (found["free"].method, found["free"].rotate, found["free"].lr) == (
        "innerpissa",
        "none",
        0.125,
    )
    assert found["free"].loss == found["innerpissa"].loss.model_copy(
        update={"coherence_weight": 0.0}
    )


def test_a_number_that_dvc_writes_without_a_dot_stays_a_number(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(
        (ROOT / "params.yaml").read_text().replace("weight_decay: 1.0e-4", "weight_decay: 1e-05")
    )
    assert load_params(file).training.weight_decay == 1e-5


def test_a_stage_sees_what_it_declares_and_nothing_else(monkeypatch):
    monkeypatch.chdir(ROOT)
    params = stage_params("train", {"method": "innerpissa", "seed": "0"}).view()
    whole = load_params()
    assert params.rank == whole.rank
    assert params.models["reference"].dtype == whole.models["reference"].dtype
    with pytest.raises(KeyError, match="coefficients is not among this stage's params"):
        _ = params.coefficients
    with pytest.raises(KeyError, match=r"models\.reference\.batch_size is not among"):
        _ = params.models["reference"].batch_size


def test_missing_or_broken_files_are_named(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_params(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(InputError, match=r"bad\.yaml cannot be read as YAML"):
        load_params(tmp_path / "bad.yaml")


def test_every_behaviour_file_is_valid_and_its_targets_name_evaluation_sets():
    for file in (ROOT / "data/raw/behaviours").glob("*.yaml"):
        behaviour = load_behaviour(file)
        assert set(behaviour.targets) <= set(EVALSETS)
        assert not behaviour.targets or {"reference", "daily_dilemmas"} <= set(behaviour.targets)
        for positive, negative in behaviour.sentences():
            assert positive != negative
            assert " an an " not in positive + negative


@pytest.mark.parametrize(("text", "said"), [
    ("template: no place\npersonas: [[a, b]]\ntargets: {}", "must hold {persona} once"),
    ("template: be {persona}\npersonas: []\ntargets: {}", "personas"),
    ("template: be {persona}\npersonas: [[a, b]]\ntargets: {}\nx: 1", "x"),
    ("template: be {persona}", "personas"),
])  # fmt: skip
def test_bad_behaviour_files_are_refused(tmp_path, text, said):
    file = tmp_path / "b.yaml"
    file.write_text(text)
    with pytest.raises(InputError, match=said):
        load_behaviour(file)


def test_an_unknown_behaviour_lists_the_known_ones():
    with pytest.raises(InputError, match="take one of courage, credulity, diligence"):
        load_behaviour(ROOT / "data/raw/behaviours/charm.yaml")


def test_there_are_at_least_600_suffixes_of_our_own():
    files = load_suffixes(ROOT / "data/raw/suffixes", "qwen3-4b")
    own = [suffix for rows in files.values() for suffix in rows]
    assert len(set(own)) == len(own) >= 600
    assert {"openings", "facts", "tasks", "thinking"} == set(files)


def test_suffixes_of_the_synthetic_world_are_the_bundled_models_alone():
    files = load_suffixes(ROOT / "data/raw/suffixes", "reference")
    assert list(files) == ["facts", "openings", "tasks", "thinking", "world"]
    assert "Snow" in files["world"]
    assert load_suffixes(ROOT / "data/raw/suffixes") == {
        name: rows for name, rows in files.items() if name != "world"
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not valid JSON"),
        ("{}", "list of strings"),
        ("[1]", "list of strings"),
        ("[]", "non-empty"),
    ],
)
def test_bad_suffix_files_are_refused(tmp_path, text, said):
    (tmp_path / "s.json").write_text(text)
    with pytest.raises(InputError, match=said):
        load_suffixes(tmp_path)


def test_a_folder_without_suffixes_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no"):
        load_suffixes(tmp_path)


def test_pairs_differ_in_the_persona_alone_and_split_by_suffix(behaviour):
    files = {"a": [f"a{i}" for i in range(30)], "b": [f"b{i}" for i in range(10)]}
    params = PairsParams(max_pairs=30, calibration_share=0.2, seed=3)
    frame = build_pairs(behaviour, files, params, lambda user, suffix: f"[{user}]{suffix}")
    assert frame.height == 30
    assert (frame["split"] == "calibration").sum() == 6
    assert frame["suffix"].is_unique().all()
    for row in frame.to_dicts():
        sentences = behaviour.sentences()[row["pair_id"] % 3]
        assert (row["positive"], row["negative"]) == tuple(
            f"[{s}]{row['suffix']}" for s in sentences
        )
        assert row["neutral"] == f"[]{row['suffix']}"
    assert frame.equals(
        build_pairs(behaviour, files, params, lambda user, suffix: f"[{user}]{suffix}")
    )
    assert sum(suffix.startswith("b") for suffix in mix(files, 20, 0)) == 10
