"""train: one learned method and seed -> models/adapters/<method>/seed<n>/, dose and certificate."""

from pathlib import Path
from typing import Any

from pipeline.lm import processes
from pipeline.lm.base import Base
from pipeline.stages.base import (
    log_fit,
    place_dial,
    read_base,
    read_pairs,
    read_probes,
    read_section,
    save_fit,
)
from pipeline.stages.stage import scratch, stage
from pipeline.steering import METHODS
from pipeline.steering.base import Pairs, PairSplits
from pipeline.steering.certificate import certificate, check
from pipeline.steering.dose import Dose
from pipeline.steering.saved import load_steering
from pipeline.steering.sign import Asked
from pipeline.steering.training.adapter import Adapter, LearnedParams, TrainingStudy
from pipeline.study.params import Params
from pipeline.support.files import new_folder, write_json
from pipeline.support.paths import SVD, adapter_folder
from pipeline.support.scratch import Scratch


def main(method: str, seed: int) -> None:
    cell: dict[str, str | int] = {"method": method, "seed": seed}
    with stage("train", **cell) as (params, run), scratch("train", **cell) as kept:
        base, pairs, asked = read_base(params), PairSplits.of(read_pairs()), read_probes()
        section, folder = read_section(method, learned=True), adapter_folder(method, seed)
        run.usage.watch(base.model)
        adapter = fit(base, pairs, section, params, seed, kept)
        if processes.is_main():
            about = {"behaviour": params.behaviour, "seed": seed}
            dose = keep(adapter, base, pairs.calibration, asked, section, params, about, folder)
            log_fit(adapter, run, folder, dose)


def fit(
    base: Base,
    pairs: PairSplits,
    section: LearnedParams,
    params: Params,
    seed: int,
    kept: Scratch | None = None,
) -> Adapter:
    study = TrainingStudy(
        modules=params.modules, svd=SVD, rank=params.rank, training=params.training, scratch=kept
    )
    return METHODS[section.method].load().fit(base, pairs, section, study, seed)


def keep(
    adapter: Adapter,
    base: Base,
    calibration: Pairs,
    asked: Asked | None,
    section: LearnedParams,
    params: Params,
    about: dict[str, Any],
    folder: Path,
) -> Dose:
    """Set the dial, save, certify what was saved; return the dose. A failure leaves no folder."""
    dose = place_dial(base, adapter, asked, params)
    with new_folder(folder) as new:
        save_fit(new, adapter, section.method, base, about, dose)
        loaded = load_steering(new, base.manifest["weights_sha256"], base.model.device)
        figures = certificate(base, adapter, loaded, calibration.neutral[:4])
        write_json(new / "certificate.json", figures)
        check(figures, adapter.promised_angle)
    return dose
