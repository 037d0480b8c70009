"""The README: its blocks are what they are rendered from, and what it names is there."""

import re
from pathlib import Path

import pytest
from typer.main import get_command

from pipeline import cli
from pipeline.app.readme import BLOCKS, HOW, filled, headline, results
from pipeline.support.errors import InputError

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_every_block_is_up_to_date():
    texts = [TEXT, (ROOT / HOW).read_text(encoding="utf-8")]
    assert {name for name in BLOCKS for text in texts if f"<!-- {name} -->" in text} == set(BLOCKS)
    assert list(map(filled, texts)) == texts, "run `python -m pipeline readme`"


def test_a_block_that_nobody_fills_is_refused():
    with pytest.raises(
        InputError, match="rename it to one of results, real, paired, methods, tree"
    ):
        filled("<!-- news -->\n<!-- /news -->")


def test_results_that_are_not_there_say_which_command_makes_them(tmp_path):
    file = tmp_path / "summary.md"
    assert results(file, "make real") == "No results yet: `make real` makes them."
    file.write_text("| a |\n", encoding="utf-8")
    assert results(file, "make real") == "| a |"


def test_it_has_at_most_120_lines():
    assert len(TEXT.splitlines()) <= 120


def test_every_folder_says_in_one_sentence_what_it_is():
    for file in Path("pipeline").rglob("__init__.py"):
        assert 10 < len(headline(file)) < 100, file


def test_every_file_that_it_names_exists():
    named = set(re.findall(r"\]\(([\w./-]+)\)", TEXT)) | set(
        re.findall(r"`(pipeline/[\w./]+)`", TEXT)
    )
    assert len(named) > 8
    assert not [name for name in named if not Path(name).exists()]


def test_every_command_that_it_names_exists():
    named = set(re.findall(r"python -m pipeline ([\w-]+)", TEXT))
    assert len(named) > 3
    assert named <= set(get_command(cli.app).commands)
    targets = set(re.findall(r"^([\w-]+(?: [\w-]+)*):", Path("Makefile").read_text(), re.M))
    known = {target for line in targets for target in line.split()}
    assert set(re.findall(r"make ([\w-]+)", TEXT)) - {"you"} <= known


def test_innerpissa_is_read_in_six_files_of_at_most_900_lines():
    text = (ROOT / "docs/how_it_works.md").read_text(encoding="utf-8")
    said = text.partition("- **To read InnerPiSSA**")[2].partition("\n- **")[0]
    files = re.findall(r"`([\w/]+\.py)`", said)
    lengths = [len((ROOT / "pipeline/steering" / file).read_text().splitlines()) for file in files]
    assert (len(files), sum(lengths) <= 900) == (6, True), lengths
