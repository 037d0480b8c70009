"""Tiny random models, built from configs and saved in the hub's layout; no network, no GPU."""

import itertools
import os
from pathlib import Path

os.environ.setdefault("INNERPISSA_TRACKING", "off")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # matrices are tiny here: more threads wait for each other

import pytest
import torch
from jaxtyping import install_import_hook
from torch.func import functional_call

# Shapes in annotations are checked in these modules; first of all, since they must not be imported.
SHAPED = ("rotation", "svd", "dimensions", "states", "direction", "methods.gradient")
LOSSES = ("losses", "contrastive", "antiparallel", "subspace")
CHECKED = [*SHAPED, *(f"training.{name}" for name in LOSSES)]
install_import_hook([f"pipeline.steering.{name}" for name in CHECKED], "beartype.beartype")

from pipeline.lm.base import Base
from pipeline.lm.layers import select
from pipeline.lm.load import load_model, load_tokenizer
from pipeline.lm.prompts import chat_text
from pipeline.lm.sources import weights_hash
from pipeline.reference.architecture import build_model, build_tokenizer, render
from pipeline.reference.corpus import documents
from pipeline.steering import METHODS
from pipeline.steering.base import PairSplits, Steering
from pipeline.steering.svd import write_cache
from pipeline.steering.training.params import TrainingParams, TrainingStudy
from pipeline.study.behaviours import load_behaviour
from pipeline.study.pairs import build_pairs
from pipeline.support.sections import ModulesParams, PairsParams

LEARNED = [name for name, method in METHODS.items() if method.learned]
BASELINES = [name for name in METHODS if name not in LEARNED]
ROOT = Path(__file__).parent.parent
OPENINGS = ["Well,", "Let me think.", "I saw the lamp and", "Snow", "First, the", "The answer is"]


def make_tiny(folder: Path, seed: int = 0) -> Path:
    """Save a random 4-layer Qwen3 with weights large enough that steering moves its logits."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(map(render, itertools.islice(documents(0, OPENINGS), 300)), 600)
    model = build_model(tokenizer, hidden_size=64, layers=4, window=16)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter.mul_(4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def plain_logits(model, inputs, changed=None) -> torch.Tensor:
    """Logits [b, t, v], with some parameters exchanged for this call alone."""
    return functional_call(model, changed or {}, args=(), kwargs=inputs).logits


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> Path:
    return make_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def manifest(tiny_folder) -> dict:
    return {
        "source": str(tiny_folder),
        "revision": None,
        "weights_sha256": weights_hash(tiny_folder),
        "model": "tiny",
    }


@pytest.fixture
def model(manifest):
    return load_model(manifest, "float32", torch.device("cpu"))


@pytest.fixture(scope="session")
def tokenizer(manifest):
    return load_tokenizer(manifest)


@pytest.fixture
def base(manifest, model, tokenizer) -> Base:
    return Base(manifest, model, tokenizer)


@pytest.fixture(scope="session")
def behaviour():
    return load_behaviour(ROOT / "data/raw/behaviours/honesty.yaml")


@pytest.fixture(scope="session")
def frame(tokenizer, behaviour):
    files = {
        "a": [
            f"{opening} {word}" for opening in OPENINGS for word in ("I", "the", "and so", "what")
        ]
    }

    def render_chat(user: str, suffix: str) -> str:
        return chat_text(tokenizer, [{"role": "user", "content": user}], suffix, {})

    return build_pairs(
        behaviour, files, PairsParams(max_pairs=24, calibration_share=0.25, seed=0), render_chat
    )


@pytest.fixture(scope="session")
def pairs(frame) -> PairSplits:
    return PairSplits.of(frame)


@pytest.fixture(scope="session")
def modules() -> ModulesParams:
    return ModulesParams(target="residual-writers", from_depth=0.0, to_depth=0.5, n_modules=None)


@pytest.fixture(scope="session")
def training() -> TrainingParams:
    return TrainingParams(
        loss_depth=0.75,
        last_tokens=2,
        epochs=3,
        batch_size=6,
        accumulate=1,
        weight_decay=0,
        warmup_share=0.1,
        clip_norm=1.0,
    )


@pytest.fixture(scope="session")
def svd_folder(tmp_path_factory, manifest, modules) -> Path:
    model = load_model(manifest, "float32", torch.device("cpu"))
    folder = tmp_path_factory.mktemp("svd") / "cache"
    write_cache(folder, select(model, modules), None, manifest["weights_sha256"])
    return folder


@pytest.fixture(scope="session")
def sections() -> dict:
    from pipeline.study.params import load_params

    return load_params(ROOT / "params.yaml").steering


@pytest.fixture(scope="session")
def study(behaviour, modules, training, svd_folder) -> TrainingStudy:
    words = (behaviour.engineered.positive, behaviour.engineered.negative)
    return TrainingStudy(
        modules=modules,
        svd=svd_folder,
        personas=behaviour.sentences(),
        engineered=words,
        rank=16,
        training=training,
    )


@pytest.fixture
def fit(base, pairs, sections, study):
    """Fit a method; changes are those of its section, of a whole `study` or of the `pairs`."""

    def run(name: str, /, seed=0, study=study, pairs=pairs, base=base, **changes) -> Steering:
        section = sections[name].model_copy(update=changes)
        return METHODS[section.method].load().fit(base, pairs, section, study, seed)

    return run
