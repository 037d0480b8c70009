"""Bad parameters, behaviours, suffixes and dilemmas: one sentence each."""

import math
from pathlib import Path

import polars as pl
import pytest
from ruamel.yaml import YAML
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from pipeline.evalsets import daily_dilemmas
from pipeline.lm.prompts import answer_tokens, chat_text
from pipeline.study.behaviours import load_behaviour, target_of
from pipeline.study.pairs import build_pairs, load_suffixes
from pipeline.study.params import load_params
from pipeline.support.schemas import check_items
from pipeline.support.sections import DailyDilemmasParams, PairsParams
from tests.conftest import ROOT
from tests.refusals import refused
from tests.test_evalsets import write_hub


@pytest.mark.parametrize(("edit", "said"), [
    (lambda p: p["training"].update(epocs=1), r"training\.epocs: .*not permitted.*: correct it there"),
    (lambda p: p["steering"]["pca"].update(k=3), r"steering\.pca\.k: .*not permitted \(found 3\)"),
    (lambda p: p["steering"]["lora_antiparallel"].update(loss={"of": "antiparallel", "wieght": 1}), r"steering\.lora_antiparallel\.loss\.wieght: "),
    (lambda p: p["losses"]["antiparallel"].update(ramp_share=2), r"losses\.antiparallel\.ramp_share: .*less than or equal to 1 \(found 2"),
    (lambda p: p["steering"]["innerpissa"].update(scale_init_mean=math.nan), r"innerpissa\.scale_init_mean: .*finite number \(found nan\)"),
    (lambda p: p["training"].update(clip_norm=math.inf), r"training\.clip_norm: .*finite number \(found inf\)"),
    (lambda p: p["training"].update(batch_size=-1), r"training\.batch_size: .*greater than or equal to 2 \(found -1\)"),
    (lambda p: p["training"].update(weight_decay="much"), r"training\.weight_decay: .*valid number.*'much'"),
    (lambda p: p.update(seeds=[0, 0]), r"seeds: \[0, 0\] names something twice: name each once"),
    (lambda p: p.update(seeds=[-1]), r"seeds\.0: .*greater than or equal to 0 \(found -1\)"),
    (lambda p: p.update(seeds=[2**40]), r"seeds\.0: .*less than 4294967296"),
    (lambda p: p["statistics"].update(seed=-1), r"statistics\.seed: .*greater than or equal to 0"),
    (lambda p: p.update(methods="innerpissa"), r"methods: .*valid list \(found 'innerpissa'\)"),
    (lambda p: p["models"].update({"qwen3-0.6b": p["models"]["reference"]}), r"'qwen3-0\.6b' is not an id: use lower-case letters"),
    (lambda p: p.update(coefficients=[-1, 0, 2]), r"coefficients: .*for each coefficient, its negative"),
    (lambda p: p.update(coefficients=[-1, 0, "a"]), r"coefficients\.2: .*found 'a'"),
    (lambda p: p.update(coefficients=[-1, 1]), r"coefficients: .*must hold -1, 0, 1"),
    (lambda p: p["svd"].update(max_rank=16), r"rank is 64, above svd\.max_rank 16: lower rank, or raise svd\.max_rank"),
    (lambda p: p["svd"].update(max_rank=0), r"svd\.max_rank: .*greater than or equal to 2 \(found 0\)"),
    (lambda p: p["evalsets"]["daily_dilemmas"].update(max_dilemmas=0), r"evalsets\.daily_dilemmas\.max_dilemmas: .*\(found 0\)"),
    (lambda p: p["modules"].update(from_depth=0.9), r"must hold, and they are 0\.9, 0\.75 and 0\.8: change one of them"),
    (lambda p: p["steering"]["pca"].update(method=["a"]), r"steering\.pca: method \['a'\] has no section"),
    (lambda p: p["steering"]["lora"].update(loss={"of": ["x"]}), r"steering\.lora: loss .* names none of contrastive, antiparallel"),
    (lambda p: p["steering"].update(a={"method": "b"}, b={"method": "a"}), r"steering\.a names itself through a -> b -> a: name"),
    (lambda p: p["losses"].update(contrastive="x"), r"losses\.contrastive is 'x': it must be a section"),
    (lambda p: p.update(losses=[]), r"losses: .*valid dictionary \(found \[\]\)"),
    (lambda p: p.update(steering=None), r"steering: .*valid dictionary"),
    (lambda p: p.update(seeds=[True]), r"seeds\.0: true and false are no numbers: correct it there"),
    (lambda p: p["steering"]["innerpissa"].update(lr=True), r"innerpissa\.lr: true and false are no numbers: correct it there"),
    (lambda p: p.update(processes=True), r"processes: true and false are no numbers: correct it there"),
    (lambda p: p.update(methods=None), r"methods: .*found None\): correct it there"),
    (lambda p: p.update(pairs=None), r"pairs: .*found None"),
])  # fmt: skip
def test_parameters(tmp_path, edit, said):
    params = YAML(typ="safe").load(ROOT / "params.yaml")
    edit(params)
    YAML().dump(params, tmp_path / "params.yaml")
    refused(said, load_params, tmp_path / "params.yaml")


@pytest.mark.parametrize(("content", "said"), [
    (b"", r"the file: .*found None.*correct it"),
    (b"- 1", r"the file: .*found \[1\]"),
    (b"rank: [1", r"cannot be read as YAML: .*: correct it"),
    (b"rank: 1\nrank: 2", r"cannot be read as YAML: .*duplicate key"),
    (b"rank: \xff\xfe", r"cannot be read as YAML: .*invalid start byte"),
])  # fmt: skip
def test_parameter_files_that_are_no_mapping(tmp_path, content, said):
    (tmp_path / "params.yaml").write_bytes(content)
    refused(said, load_params, tmp_path / "params.yaml")


TARGETS = "targets: {reference: {label: Value/honesty, opposite: []}}"


@pytest.mark.parametrize(("text", "said"), [
    (f"template: be {{persona}}\n{TARGETS}", r"b\.yaml: personas: Field required"),
    (f"template: be {{persona}}\npersonas: [[a, b]]\nx: 1\n{TARGETS}", r"b\.yaml: x: .*not permitted"),
    (f"template: be {{persona}}\npersonas: [['', b]]\n{TARGETS}", r"b\.yaml: personas\.0\.0: .*found ''"),
    (f"template: be {{persona}}\npersonas: [[a]]\n{TARGETS}", r"b\.yaml: personas\.0\.1: Field required"),
    (f"template: be {{persona}}\npersonas: [[kind, kind]]\n{TARGETS}", r"personas\.0: .* are both 'kind': they must differ"),
    (f"template: be {{persona}} {{x}}\npersonas: [[a, b]]\n{TARGETS}", r"template: .*may hold no braces but \{persona\}: take"),
    (f"template: be\npersonas: [[a, b]]\n{TARGETS}", r"template: 'be' must hold \{persona\} once: write it"),
    (f"template: be {{persona}}\npersonas: [[a, b]]\nengineered: {{positive: x}}\n{TARGETS}", r"engineered\.negative: Field required"),
    (f"template: be {{persona}}\npersonas: [[a, b]]\nengineered: {{positive: x, negative: ' '}}\n{TARGETS}", r"engineered\.negative: .*found ' '"),
    ("template: be {persona}\npersonas: [[a, b]]\ntargets: {reference: {label: x}}", r"targets\.reference\.opposite: Field required"),
    ("template: [", r"b\.yaml cannot be read as YAML"),
    ("", r"b\.yaml: the file: .*found None"),
])  # fmt: skip
def test_behaviour_files(tmp_path, text, said):
    (tmp_path / "b.yaml").write_text(text)
    refused(said, load_behaviour, tmp_path / "b.yaml")


@pytest.mark.parametrize(("evalset", "labels", "said"), [
    ("reference", ["Value/kindness", "WVS/x"], r"'Value/honesty' under targets is no label of 'reference': take one of Value/kindness$"),
    ("reference", ["Value/honesty"], r"'Value/deception' under targets is no label"),
])  # fmt: skip
def test_targets_that_no_item_bears(evalset, labels, said):
    refused(said, target_of, ROOT / "data/raw/behaviours/honesty.yaml", evalset, labels)


@pytest.mark.parametrize(("content", "said"), [
    (b"{", r"s\.json is not valid JSON \(.*: correct it"),
    (b"\xff\xfe[]", r"s\.json is not valid JSON"),
    (b'{"a": 1}', r"must be a non-empty list of strings: write"),
    (b"[]", r"must be a non-empty list of strings"),
    (b'["a", 3]', r"s\.json holds 3, must be a list of strings that are not blank: correct"),
    (b'["a", " "]', r"s\.json holds ' ', must be"),
    (b'["a", ["b"]]', r"s\.json holds \['b'\], must be"),
])  # fmt: skip
def test_suffix_files(tmp_path, content, said):
    (tmp_path / "s.json").write_bytes(content)
    refused(said, load_suffixes, tmp_path)


def test_a_folder_without_suffix_files(tmp_path):
    refused(r"holds no \*\.json: put lists", load_suffixes, tmp_path)


def test_hidden_files_are_no_suffixes_and_no_behaviours(tmp_path):
    (tmp_path / "._tasks.json").write_bytes(b"\x00\x05")
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / ".ipynb_checkpoints/tasks.json").write_text("[1]")
    (tmp_path / "tasks.json").write_text('["Well,"]')
    assert load_suffixes(tmp_path) == {"tasks": ["Well,"]}
    (tmp_path / "._tasks.yaml").touch()
    (tmp_path / "tasks.yaml").touch()
    refused(r"take one of tasks, or write", load_behaviour, tmp_path / "charm.yaml")


@pytest.mark.parametrize(("suffixes", "share", "said"), [
    (["the same"] * 9, 0.2, r"^1 different suffixes at pairs\.calibration_share 0\.2 are 0 pairs for training and 1 for calibration"),
    (["a", "b", "c"], 0.2, r"are 2 pairs for training and 1 for calibration, both need 2: add suffixes"),
    ([str(i) for i in range(9)], 0.9, r"are 1 pairs for training and 8 for calibration"),
])  # fmt: skip
def test_too_few_suffixes_for_the_split(behaviour, suffixes, share, said):
    params = PairsParams(max_pairs=9, calibration_share=share, seed=0)
    refused(
        said, build_pairs, behaviour, {"a": suffixes}, params, lambda user, suffix: user + suffix
    )


def load(folder: Path) -> pl.DataFrame:
    section = DailyDilemmasParams(source=str(folder), revision="main", max_dilemmas=None)
    return check_items(daily_dilemmas.build_items(section, "honesty"), "the items")


ROWS, PARTIES, VALUES = (
    "Dilemmas_with_values_aggregated.parquet",
    "Action_to_party_to_value.csv",
    "Values.csv",
)


@pytest.mark.parametrize(("name", "spoil", "said"), [
    (ROWS, lambda t: t.drop("dilemma_situation"), r"lacks dilemma_situation: add or rename them"),
    (ROWS, lambda t: t.rename({"action": "Action"}), r"lacks action: add or rename"),
    (ROWS, lambda t: t.with_columns(action=pl.lit(None, pl.String)), r"aggregated\.parquet, row 1: column 'action' holds None, must hold text: fill it in"),
    (ROWS, lambda t: t.with_columns(dilemma_idx=pl.lit(None, pl.Int64)), r"row 1: column 'dilemma_idx' holds None, must hold text"),
    (ROWS, lambda t: t.with_columns(action=pl.concat_list("action")), r"column 'action' is List\(String\), must be text"),
    (ROWS, lambda t: t.with_columns(action_type=pl.lit("do")), r"row 1: column 'action_type' holds 'do', must be to_do or not_to_do: correct"),
    (ROWS, lambda t: t.filter(pl.col("action_type") == "to_do"), r"dilemma '7' must have one to_do and one not_to_do row, so that .*: add the other"),
    (ROWS, lambda t: pl.concat([t, t.head(1)]), r"item_id '7-to_do' occurs twice: keep one"),
    (ROWS, lambda t: t.clear(), r"aggregated\.parquet holds no rows: restore"),
    (PARTIES, lambda t: t.drop("value"), r"lacks value: add or rename"),
    (PARTIES, lambda t: t.with_columns(party=pl.lit("me")), r"no label_.* as no action carries a value: correct its source"),
    (PARTIES, lambda t: t.with_columns(action_type=pl.lit("To Do")), r"Action_to_party_to_value\.csv, row 1: column 'action_type' holds 'To Do'"),
    (PARTIES, lambda t: t.with_columns(party=pl.lit(" ")), r"row 1: column 'party' holds ' ', must hold text"),
    (PARTIES, lambda t: t.with_columns(value=pl.lit(None, pl.String)), r"row 1: column 'value' holds None, must hold text"),
    (PARTIES, lambda t: t.with_columns(party=pl.lit("you")), r"row 1: column 'party' holds 'you', must write the agent as You: correct it"),
    (PARTIES, lambda t: t.with_columns(dilemma_idx=pl.col("dilemma_idx") + ".0"), r"aggregated\.parquet, row 1: column 'dilemma_idx' holds '7', which no row of the parties has"),
    (VALUES, lambda t: t.with_columns(WVS=pl.lit("nan")), r"row 1: column 'WVS' holds 'nan', must be a label or nothing at all"),
    (VALUES, lambda t: pl.concat([t, t.head(1).with_columns(MFT=pl.lit("Care"))]), r"row 4: column 'MFT' holds 'Care', gives 'honesty' a second label"),
    (VALUES, lambda t: t.with_columns(Maslow=pl.Series(["self-esteem", "self-esteem ", "Self-esteem"])), r"row 2: column 'Maslow' holds 'self-esteem ', spells 'self-esteem' in another way"),
    (VALUES, lambda t: t.with_columns(value=pl.lit("")), r"Values\.csv, row 1: column 'value' holds '', must hold text"),
    (VALUES, lambda t: t.rename({"Virtue": "virtue"}), r"lacks Virtue: add or rename"),
])  # fmt: skip
def test_the_hubs_tables(tmp_path, name, spoil, said):
    write_hub(tmp_path)
    file = tmp_path / name
    table = (
        pl.read_csv(file, infer_schema=False) if file.suffix == ".csv" else pl.read_parquet(file)
    )
    found = spoil(table)
    found.write_csv(file) if file.suffix == ".csv" else found.write_parquet(file)
    refused(said, load, tmp_path)


def authors() -> dict[str, list[str]]:
    """One dilemma of the authors' schema, both sides."""
    frameworks = {name: ["['x']", "['y']"] for name in daily_dilemmas.FRAMEWORKS}
    about = {
        "idx": ["1", "1"],
        "dilemma_situation": ["S", "S"],
        "action_type": ["to_do", "not_to_do"],
        "action": ["A", "B"],
    }
    values = {
        "parties_direct": ["['You']"] * 2,
        "values_direct": ["['Honesty']", "['Self']"],
        "parties_indirect": ["['Others']"] * 2,
        "values_indirect": ["['Trust']"] * 2,
        "values_names": ["['honesty']", "['self']"],
    }
    return about | values | frameworks


def test_the_authors_table_as_it_is_loads(tmp_path):
    pl.DataFrame(authors()).write_csv(tmp_path / "d.csv")
    assert load(tmp_path).height == 2


@pytest.mark.parametrize(("change", "said"), [
    ({"maslow": None}, r"the nearest, .*d\.csv, lacks maslow: add or rename"),
    ({"idx": None, "dilemma_idx": ["1", "1"]}, r"the nearest, .*d\.csv, lacks idx: add or rename"),
    ({"parties_direct": None}, r"the nearest, .*d\.csv, lacks parties_direct: add or rename"),
    ({"values_names": ["honesty;trust", "[]"]}, r"d\.csv, row 1: column 'values_names' holds 'honesty;trust', must be a list of strings: write it"),
    ({"values_names": ["['honesty' 'trust']", "[]"]}, r"row 1: column 'values_names' holds \"\['honesty' 'trust'\]\", must be a list of strings"),
    ({"values_direct": ["['Honesty']", "['Self' 'Trust']"]}, r"row 2: column 'values_direct' holds \"\['Self' 'Trust'\]\", must be a list"),
    ({"values_direct": ["['Honesty', 'Trust']", "['Self']"]}, r"row 1: column 'values_direct' holds .*, must have as many entries as 'parties_direct'"),
    ({"maslow": ["['x']", "['y', 'z']"]}, r"row 2: column 'maslow' holds .*, must have as many entries as 'values_names'"),
    ({"parties_direct": ["['you']", "['You']"]}, r"row 1: column 'parties_direct' holds .*, must write the agent as You: correct it"),
    ({"parties_indirect": ["[' You ']", "['You']"]}, r"row 1: column 'parties_indirect' holds .*, must write the agent as You"),
    ({"parties_direct": ["[nan]", "['You']"]}, r"row 1: column 'parties_direct' holds '\[nan\]', must hold no empty entry"),
    ({"values_direct": ["['Honesty']", "[None]"]}, r"row 2: column 'values_direct' holds '\[None\]', must hold no empty entry"),
    ({"values_indirect": ["['']", "['Trust']"]}, r"row 1: column 'values_indirect' holds .*, must hold no empty entry"),
    ({"values_names": ["['honesty']", "['nan']"]}, r"row 2: column 'values_names' holds .*, must hold no empty entry"),
    ({"emotion": ["['x']", "[' ']"]}, r"row 2: column 'emotion' holds .*, must hold no empty entry"),
    ({"virtue": ["['x']", "['X']"]}, r"row 2: column 'virtue' holds .*, spells 'x' in another way: write it alike"),
    ({"values_names": ["['honesty', 'Honesty']", "['self']"]} | {name: ["['x', 'x']", "['y']"] for name in daily_dilemmas.FRAMEWORKS}
     | {"mft": ["['x', 'z']", "['y']"]}, r"row 1: column 'mft' holds .*, gives 'honesty' a second label"),
    ({"parties_indirect": ["['Others',]", "[]"]}, r"row 1: column 'parties_indirect' holds"),
    ({"virtue": ["[1, 2]", "[]"]}, r"column 'virtue' holds '\[1, 2\]', must be a list of strings"),
    ({"wvs": [None, "[]"]}, r"column 'wvs' holds None, must be a list"),
    ({"mft": ["['open", "[]"]}, r"column 'mft' holds \"\['open\""),
    ({"dilemma_situation": [" ", "S"]}, r"row 1: column 'dilemma_situation' holds ' ', must hold text"),
    ({"dilemma_situation": ["S", "nan"]}, r"row 2: column 'dilemma_situation' holds 'nan', must hold text"),
    ({"action": ["NaN", "A"]}, r"row 1: column 'action' holds 'NaN', must hold text"),
    ({"idx": ["None", "None"]}, r"row 1: column 'idx' holds 'None', must hold text"),
    ({"values_names": [r"['\xZZ']", "[]"]}, r"row 1: column 'values_names' holds .*, must be a list of strings: write a backslash as two"),
    ({"action_type": ["to_do", "to_do"]}, r"item_id '1-to_do' occurs twice"),
    ({"action_type": ["to_do", "0"]}, r"'action_type' holds '0'"),
    ({"idx": ["1", "2"]}, r"dilemma '1' must have one to_do and one not_to_do row"),
    ({"parties_direct": ["['Them']"] * 2}, r"no action carries a value"),
    ({name: ["[]", "[]"] for name in ("values_names", *daily_dilemmas.FRAMEWORKS)}, r"no action carries a value"),
])  # fmt: skip
def test_the_authors_table(tmp_path, change, said):
    columns = {name: column for name, column in (authors() | change).items() if column is not None}
    pl.DataFrame(columns).write_csv(tmp_path / "d.csv")
    refused(said, load, tmp_path)


@pytest.mark.parametrize(("name", "content", "said"), [
    ("d.csv", b"", r"d\.csv cannot be read as a table \(.*: restore or correct it"),
    ("d.csv", b"a,b\n1,2,3\n", r"d\.csv cannot be read as a table"),
    ("d.csv", b"a,b\n\xff\xfe,1\n", r"d\.csv cannot be read as a table"),
    ("d.parquet", b"PAR1 and no more", r"d\.parquet cannot be read as a table"),
    ("d.csv", b"a,b\n1,2\n", r"no table has the columns .*: add or rename"),
    ("d.txt", b"", r"holds no CSV or parquet file: point"),
])  # fmt: skip
def test_files_that_are_no_table(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    refused(said, load, tmp_path)


@pytest.mark.parametrize(
    ("words", "missing"), [(["Yes", "maybe"], "no"), (["Y", "es", "N", "o"], "yes and no")]
)
def test_answer_words_that_are_not_one_token(words, missing):
    model = models.WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model))
    refused(f"no single token for {missing}: ", answer_tokens, tokenizer)


def test_a_chat_template_that_does_not_parse(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{% for %}")
    refused(
        r"the chat template of .* fails \(.*: mend the template in its folder, or take a model",
        chat_text,
        tokenizer,
        [{"role": "user", "content": "x"}],
        "y",
        {},
    )
