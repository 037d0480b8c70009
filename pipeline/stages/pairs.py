"""pairs: a behaviour x suffix files -> data/pairs/pairs.parquet."""

import polars as pl

from pipeline.lm.load import load_tokenizer
from pipeline.stages.base import read_manifest
from pipeline.stages.stage import stage
from pipeline.study.behaviours import Behaviour, load_behaviour
from pipeline.study.pairs import draw_pairs
from pipeline.study.params import Params
from pipeline.support.files import new_folder
from pipeline.support.paths import PAIRS, behaviour_file


def pairs_of(behaviour: Behaviour, tokenizer, params: Params) -> pl.DataFrame:
    """Return the table of a behaviour's pairs, in the words of the study's model."""
    options = params.models[params.model].template_options
    return draw_pairs(behaviour, params.model, params.pairs, tokenizer, options)


def main() -> None:
    with stage("pairs") as (params, run):
        tokenizer = load_tokenizer(read_manifest(params.model))
        frame = pairs_of(load_behaviour(behaviour_file(params.behaviour)), tokenizer, params)
        print(f"{frame.height} pairs; the first:\n{frame['positive'][0]}\n{frame['negative'][0]}")
        sizes = {split: frame.filter(split=split).height for split in ("train", "calibration")}
        run.log({f"pairs_{split}": float(size) for split, size in sizes.items()})
        with new_folder(PAIRS) as new:
            frame.write_parquet(new / "pairs.parquet")
            run.record(new)
