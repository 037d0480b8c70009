"""baselines: one method without training -> models/adapters/<method>/seed<n>/; random directions have many seeds."""

import shutil

from pipeline.behaviours import load_behaviour
from pipeline.paths import ADAPTERS, behaviour_file
from pipeline.stages.base import read_base, read_pairs, save_fit
from pipeline.stages.stage import stage
from pipeline.steering import METHODS
from pipeline.steering.base import Context, Pairs


def main(method: str) -> None:
    with stage("baselines", method=method) as (params, run):
        manifest, model, tokenizer = read_base(params)
        frame, section = read_pairs(), params[f"steering.{method}"]
        split = Pairs.of(frame, "train"), Pairs.of(frame, "calibration")
        context = Context(section, load_behaviour(behaviour_file(params["behaviour"])).sentences())
        shutil.rmtree(ADAPTERS / method, ignore_errors=True)
        for seed in range(getattr(section, "directions", 1)):
            steering = METHODS[method].load().fit(model, tokenizer, *split, context, seed)
            save_fit(steering, params, run, manifest, method, seed)
