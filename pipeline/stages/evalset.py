"""evalset: an evaluation set -> data/items/items.parquet."""

from importlib import import_module

from pipeline.stages.stage import stage
from pipeline.study.behaviours import target_of
from pipeline.support.files import new_folder
from pipeline.support.paths import ITEMS, behaviour_file
from pipeline.support.schemas import check_items, labels


def main() -> None:
    with stage("evalset") as (params, run):
        name = params.evalset
        build_items = import_module(f"pipeline.evalsets.{name}").build_items
        items = check_items(
            build_items(getattr(params.evalsets, name), params.behaviour), f"evaluation set {name}"
        )
        target_of(
            behaviour_file(params.behaviour), name, labels(items)
        )  # before anything is trained for it
        print(
            f"{items.height} items, {len(labels(items))} labels; the first:\n{items['prompt'][0]}"
        )
        run.log(
            {
                "items": items.height,
                "dilemmas": items["dilemma_id"].n_unique(),
                "labels": len(labels(items)),
            }
        )
        with new_folder(ITEMS) as new:
            items.write_parquet(new / "items.parquet")
            run.record(new)
