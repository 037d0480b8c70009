"""Read what the early stages wrote, for the stages that run a model."""

from typing import Any

import polars as pl
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.errors import InputError
from pipeline.files import read_json
from pipeline.lm.load import choose_device, load_model, load_tokenizer
from pipeline.params import Declared
from pipeline.paths import ITEMS, MANIFEST, PAIRS
from pipeline.schemas import check_items


def read_manifest(model: str) -> dict[str, Any]:
    if not MANIFEST.exists():
        raise InputError(f"{MANIFEST} does not exist: run `dvc repro model`")
    manifest = read_json(MANIFEST)
    if manifest["model"] != model:
        raise InputError(f"{MANIFEST} is of {manifest['model']!r}, params.yaml says {model!r}: run `dvc repro model`")
    return manifest


def read_base(params: Declared) -> tuple[dict[str, Any], PreTrainedModel, PreTrainedTokenizerBase]:
    """Return the manifest, the frozen model on its device, and the tokenizer."""
    manifest = read_manifest(params["model"])
    model = load_model(manifest, params[f"models.{params['model']}.dtype"], choose_device(params["device"]))
    return manifest, model, load_tokenizer(manifest)


def read_pairs() -> pl.DataFrame:
    return pl.read_parquet(PAIRS / "pairs.parquet")


def read_items() -> pl.DataFrame:
    file = ITEMS / "items.parquet"
    return check_items(pl.read_parquet(file), str(file))
