"""baselines: one method without training -> models/adapters/<method>/seed<n>/; random directions
have many seeds.
"""

from pipeline.stages.base import log_fit, read_base, read_pairs, read_section, save_fit
from pipeline.stages.stage import stage
from pipeline.steering import METHODS
from pipeline.steering.base import Context, Pairs
from pipeline.steering.dose import calibrate, cost_function
from pipeline.study.behaviours import load_behaviour
from pipeline.support.files import new_folder
from pipeline.support.paths import ADAPTERS, SVD, adapter_folder, behaviour_file


def main(method: str) -> None:
    with stage("baselines", method=method) as (params, run):
        base, frame, section = read_base(params), read_pairs(), read_section(method, learned=False)
        model, tokenizer = base.model, base.tokenizer
        run.usage.watch(model)
        train, calibration = Pairs.of(frame, "train"), Pairs.of(frame, "calibration")
        behaviour = load_behaviour(behaviour_file(params.behaviour))
        long = behaviour.engineered
        words = (long.positive, long.negative) if long else None
        context = Context(section, behaviour.sentences(), words, modules=params.modules, svd=SVD)
        with new_folder(ADAPTERS / method) as new:
            for seed in range(getattr(section, "directions", 1)):
                steering, dose = (
                    METHODS[section.method]
                    .load()
                    .fit(model, tokenizer, train, calibration, context, seed),
                    None,
                )
                if steering.graded:
                    cost = cost_function(
                        model, tokenizer, steering, calibration, params.dose.measure
                    )
                    dose = calibrate(cost, params.dose)
                folder = new / adapter_folder(method, seed).name
                save_fit(folder, steering, section, base, params.behaviour, seed, dose)
                log_fit(steering, run, folder, dose)
