"""train: one learned method and seed -> models/adapters/<method>/seed<n>/, with its dose and its
certificate.
"""

from pathlib import Path
from typing import Any

from pipeline.lm import processes
from pipeline.lm.base import Base
from pipeline.stages.base import log_fit, read_base, read_pairs, read_section, save_fit
from pipeline.stages.stage import scratch, stage
from pipeline.steering import METHODS
from pipeline.steering.base import Context, Pairs, load_steering
from pipeline.steering.certificate import certificate, check
from pipeline.steering.dose import calibrate, cost_function
from pipeline.study.params import Params
from pipeline.support.files import new_folder, write_json
from pipeline.support.paths import SVD, adapter_folder
from pipeline.support.scratch import Scratch


def main(method: str, seed: int) -> None:
    cell: dict[str, str | int] = {"method": method, "seed": seed}
    with stage("train", **cell) as (params, run), scratch("train", **cell) as kept:
        base, frame, folder = read_base(params), read_pairs(), adapter_folder(method, seed)
        run.usage.watch(base.model)
        split, section = (
            (Pairs.of(frame, "train"), Pairs.of(frame, "calibration")),
            read_section(method, learned=True),
        )
        steering = fit(base, split, section, params, seed, kept)
        if processes.is_main():
            dose = keep(steering, base, split[1], section, params, params.behaviour, seed, folder)
            log_fit(steering, run, folder, dose)


def fit(
    base: Base,
    split: tuple[Pairs, Pairs],
    section: Any,
    params: Params,
    seed: int,
    kept: Scratch | None = None,
) -> Any:
    context = Context(
        section=section,
        rank=params.rank,
        modules=params.modules,
        training=params.training,
        svd=SVD,
        scratch=kept,
    )
    return METHODS[section.method].load().fit(base.model, base.tokenizer, *split, context, seed)


def keep(
    steering: Any,
    base: Base,
    calibration: Pairs,
    section: Any,
    params: Params,
    behaviour: str,
    seed: int,
    folder: Path,
) -> dict:
    """Find the dose, save, and certify what was saved; the folder exists only if all went well.
    Returns the dose.
    """
    model, tokenizer = base.model, base.tokenizer
    dose = calibrate(
        cost_function(model, tokenizer, steering, calibration, params.dose.measure), params.dose
    )
    with new_folder(folder) as new:
        save_fit(new, steering, section, base, behaviour, seed, dose)
        loaded = load_steering(new, base.manifest["weights_sha256"], model.device)
        found = certificate(model, tokenizer, steering, loaded, calibration.neutral[:4])
        write_json(new / "certificate.json", found)
        check(
            found,
            section.max_angle if getattr(section, "angle_bound", None) == "spectral" else None,
        )
    return dose
