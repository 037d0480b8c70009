"""baselines: one method without training -> models/adapters/<method>/seed<n>/.

Only random directions have several seeds.
"""

from pipeline.stages.base import Fits, log_fit, read_base, read_pairs, read_probes, read_section
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
        long, personas = behaviour.engineered, behaviour.sentences()
        words = (long.positive, long.negative) if long else None
        study = Study(modules=params.modules, svd=SVD, personas=personas, engineered=words)
        fits = Fits(base, params, section, params.behaviour, asked)
        kind = METHODS[section.method].load()
        with new_folder(ADAPTERS / method) as new:
            for seed in range(kind.draws(section)):
                steering = kind.fit(base, pairs, section, study, seed)
                dose = fits.place_dial(steering)
                folder = new / adapter_folder(method, seed).name
                fits.save(folder, steering, seed, dose)
                log_fit(steering, run, folder, dose)
