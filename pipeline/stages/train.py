"""train: one learned method and seed -> models/adapters/<method>/seed<n>/."""

from pipeline.paths import SVD
from pipeline.stages.base import read_base, read_pairs, save_fit
from pipeline.stages.stage import stage
from pipeline.steering import METHODS
from pipeline.steering.base import Context, Pairs


def main(method: str, seed: int) -> None:
    with stage("train", method=method, seed=seed) as (params, run):
        manifest, model, tokenizer = read_base(params)
        frame = read_pairs()
        context = Context(
            section=params[f"steering.{method}"],
            rank=params["rank"],
            modules=params["modules"],
            training=params["training"],
            svd=SVD,
        )
        split = Pairs.of(frame, "train"), Pairs.of(frame, "calibration")
        steering = METHODS[method].load().fit(model, tokenizer, *split, context, seed)
        save_fit(steering, params, run, manifest, method, seed)
