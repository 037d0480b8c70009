"""A further method is one file and one line of the registry, and everything else finds it there."""

import os
import shutil
import subprocess
import sys

from pipeline.steering import METHODS
from tests.conftest import ROOT

FILE = '''"""Median difference: the median of positive minus negative states."""

from pydantic import Field
from torch.nn.functional import normalize

from pipeline.steering.direction import DirectionParams, PairDirection


class MedianParams(DirectionParams):
    power: float = Field(gt=0)
    """What the median's entries are raised to."""


class MedianDiff(PairDirection):
    section = MedianParams
    label = "median difference"
    source = "a test"

    @classmethod
    def unit_directions(cls, differences, section, seed):
        median = differences.median(0).values
        return normalize(median.sign() * median.abs() ** section.power, dim=-1)
'''
LINE = '    "median": Method("median:MedianDiff"),\n'
SECTION = "  median: {from_depth: 0.3, to_depth: 0.7, last_tokens: 1, power: 1.0}\n"
BODY = """
import sys
from pathlib import Path
import torch
from gguf import GGUFReader
from safetensors.torch import load_file
from pipeline.app.export.command import main
from pipeline.lm.base import Base
from pipeline.lm.load import load_model, load_tokenizer
from pipeline.report import figures
from pipeline.report.figures.look import FREE, Sheet, look_of, style
from pipeline.report.figures.words import has_dose, name_of
from pipeline.steering import METHODS
from pipeline.steering.saved import save_steering
from pipeline.study.params import load_params
import polars as pl

place = Path(sys.argv[1])
given = torch.load(place / "given.pt", weights_only=False)
params, manifest, cpu = load_params(place / "params.yaml"), given["manifest"], torch.device("cpu")
assert "median" in params.baselines
section = params.steering["median"]
base = Base(manifest, load_model(manifest, "float32", cpu), load_tokenizer(manifest))
fitted = METHODS["median"].load().fit(base, given["pairs"], section, given["study"], 0)
save_steering(place / "fitted", "median", fitted, manifest | {"behaviour": "honesty", "dose": None})
for form in ("vector", "gguf", "hub"):
    main([str(place / "fitted")], form, 2.0, str(place / form), manifest["source"], False)
for site, vector in load_file(place / "vector/vector.safetensors").items():
    torch.testing.assert_close(vector, 2 * dict(zip(fitted.sites, fitted.vectors))[site])
assert len(GGUFReader(place / "gguf/vector.gguf").tensors) == len(fitted.sites)
assert (name_of("median"), name_of("median_late")) == ("median difference", "median difference, late")
assert look_of("median") == FREE[0] and has_dose("median")
assert len({look_of(method) for method in METHODS}) == len(METHODS)
equal = pl.DataFrame(
    {"method": ["median", "pca"], "target_effect": [0.1, 0.2], "ci_low": [0.0, 0.1],
     "ci_high": [0.2, 0.3], "target_effect_log_odds": [0.1, 0.2], "ci_low_log_odds": [0.0, 0.1],
     "ci_high_log_odds": [0.2, 0.3], "coherent": [True, True], "calibrated": [True, True]}
)
effect = dict.fromkeys(("effect", "effect_log_odds"), [0.1])
seeds = pl.DataFrame({"method": ["median"], "seed": [0], **effect})
figures.forest(Sheet(place / "figures", "a caption"), equal, seeds)
assert "<!-- median difference -->" in (place / "figures/forest.svg").read_text()
"""


def test_a_method_is_one_file_and_one_line(tmp_path, manifest, pairs, study):
    import torch

    shutil.copytree(ROOT / "pipeline", tmp_path / "pipeline")
    (tmp_path / "pipeline/steering/methods/median.py").write_text(FILE)
    registry = tmp_path / "pipeline/steering/__init__.py"
    last = f'    "{list(METHODS)[-1]}": '
    before, after = registry.read_text().split(last)
    registry.write_text(before + LINE + last + after)
    params = (ROOT / "params.yaml").read_text()
    params = params.replace("baselines:\n", "baselines:\n- median\n").replace(
        "steering:\n", f"steering:\n{SECTION}"
    )
    (tmp_path / "params.yaml").write_text(params)
    torch.save({"manifest": manifest, "pairs": pairs, "study": study}, tmp_path / "given.pt")
    (tmp_path / "body.py").write_text(BODY)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "body.py"), str(tmp_path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
