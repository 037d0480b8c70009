"""baselines: one method without training -> models/adapters/<method>/seed<n>/.

Only random directions have several seeds.
"""

from pipeline.stages.base import (
    log_fit,
    place_dial,
    read_base,
    read_pairs,
    read_probes,
    read_section,
    save_fit,
)
from pipeline.stages.stage import stage
from pipeline.steering import METHODS
from pipeline.steering.base import PairSplits, Study
from pipeline.study.behaviours import load_behaviour
from pipeline.support.files import new_folder
from pipeline.support.paths import ADAPTERS, SVD, adapter_folder, behaviour_file


def main(method: str) -> None:
    with stage("baselines", method=method) as (params, run):
        base, pairs, asked = read_base(params), PairSplits.of(read_pairs()), read_probes()
        section = read_section(method, learned=False)
        run.usage.watch(base.model)
        behaviour = load_behaviour(behaviour_file(params.behaviour))
        long = behaviour.engineered
        study = Study(
            modules=params.modules,
            svd=SVD,
            personas=behaviour.sentences(),
            engineered=(long.positive, long.negative) if long else None,
        )
        kind = METHODS[section.method].load()
        with new_folder(ADAPTERS / method) as new:
            for seed in range(kind.draws(section)):
                steering = kind.fit(base, pairs, section, study, seed)
                dose = place_dial(base, steering, asked, params)
                folder = new / adapter_folder(method, seed).name
                about = {"behaviour": params.behaviour, "seed": seed}
                save_fit(folder, steering, section.method, base, about, dose)
                log_fit(steering, run, folder, dose)
