"""evalset: an evaluation set -> data/items: items, control items, and where the set was read."""

from importlib import import_module

from pipeline.evalsets.controls import build_controls
from pipeline.stages.stage import stage
from pipeline.study.behaviours import target_of, unmeasured
from pipeline.support.files import new_folder, write_json
from pipeline.support.paths import ITEMS, behaviour_file
from pipeline.support.schemas import check_items, labels


def main() -> None:
    with stage("evalset") as (params, run):
        name, file = params.evalset, behaviour_file(params.behaviour)
        section = getattr(params.evalsets, name)
        module = import_module(f"pipeline.evalsets.{name}")
        items = module.build_items(section, params.behaviour)
        items = check_items(items, f"evaluation set {name}")
        controls, names = build_controls(section.controls), labels(items)
        # Before anything is trained for it.
        if not target_of(file, name, names).label:
            print(f"warning: {unmeasured(file, name)}")
        counts = {"items": items.height, "dilemmas": items["dilemma_id"].n_unique()}
        counts |= {"labels": len(names), "controls": controls.height}
        said = ", ".join(f"{count} {what}" for what, count in counts.items())
        print(f"{said}; the first:\n{items['prompt'][0]}")
        run.log({**counts})
        with new_folder(ITEMS) as new:
            items.write_parquet(new / "items.parquet")
            controls.write_parquet(new / "controls.parquet")
            write_json(new / "source.json", {"evalset": name, **counts, **module.origin(section)})
            run.record(new)
