"""pairs: a behaviour x suffix files -> data/pairs/pairs.parquet."""

from pipeline.lm.load import load_tokenizer
from pipeline.stages.base import read_manifest
from pipeline.stages.stage import stage
from pipeline.study.behaviours import load_behaviour
from pipeline.study.pairs import build_pairs, load_suffixes, renderer
from pipeline.support.files import new_folder
from pipeline.support.paths import PAIRS, SUFFIXES, behaviour_file


def main() -> None:
    with stage("pairs") as (params, run):
        tokenizer = load_tokenizer(read_manifest(params.model))
        options = params.models[params.model].template_options
        behaviour = load_behaviour(behaviour_file(params.behaviour))
        frame = build_pairs(
            behaviour,
            load_suffixes(SUFFIXES, params.model),
            params.pairs,
            renderer(tokenizer, options),
        )
        print(f"{frame.height} pairs; the first:\n{frame['positive'][0]}\n{frame['negative'][0]}")
        run.log(
            {
                f"pairs_{split}": float((frame["split"] == split).sum())
                for split in ("train", "calibration")
            }
        )
        with new_folder(PAIRS) as new:
            frame.write_parquet(new / "pairs.parquet")
            run.record(new)
