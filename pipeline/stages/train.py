"""train: one learned method and seed -> models/adapters/<method>/seed<n>/."""

from pipeline.pairs import load_behaviour
from pipeline.params import Declared
from pipeline.paths import SVD, adapter_folder, behaviour_file
from pipeline.stages.base import read_base, read_pairs
from pipeline.stages.stage import stage
from pipeline.steering import METHODS
from pipeline.steering.base import Context, Pairs, Steering, save_steering
from pipeline.tracking import Run


def main(method: str, seed: int) -> None:
    with stage("train", method=method, seed=seed) as (params, run):
        manifest, model, tokenizer = read_base(params)
        frame = read_pairs()
        context = Context(
            section=params[f"steering.{method}"],
            personas=load_behaviour(behaviour_file(params["behaviour"])).sentences(),
            rank=params["rank"],
            modules=params["modules"],
            training=params["training"],
            svd=SVD,
        )
        split = Pairs.of(frame, "train"), Pairs.of(frame, "calibration")
        steering = METHODS[method].load().fit(model, tokenizer, *split, context, seed)
        finish(steering, params, run, manifest, method, seed)


def finish(steering: Steering, params: Declared, run: Run, manifest: dict, method: str, seed: int) -> None:
    """Save a fitted method and log its summary and curves."""
    folder = adapter_folder(method, seed)
    about = {"behaviour": params["behaviour"], "seed": seed, "model": manifest["model"]}
    save_steering(folder, method, steering, about | {"weights_sha256": manifest["weights_sha256"]})
    if steering.history is not None:
        for split, part in steering.history.group_by("split"):
            rows = part.drop("split").iter_rows(named=True)
            named = [(r.pop("step"), {f"{split[0]}/{k}": v for k, v in r.items() if v is not None}) for r in rows]
            run.curve(named)
    run.log(steering.summary)
    run.record(folder)
