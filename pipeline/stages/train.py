"""train: one learned method and seed -> models/adapters/<method>/seed<n>/, dose and certificate."""

from pathlib import Path

from pipeline.lm import processes
from pipeline.stages.base import Fits, log_fit, read_base, read_pairs, read_probes, read_section
from pipeline.stages.stage import scratch, stage
from pipeline.steering import METHODS
from pipeline.steering.base import Pairs, PairSplits
from pipeline.steering.certificate import certificate, check
from pipeline.steering.dose import Dose
from pipeline.steering.saved import load_steering
from pipeline.steering.training.adapter import Adapter
from pipeline.steering.training.params import TrainingStudy
from pipeline.support.files import new_folder, write_json
from pipeline.support.paths import SVD, adapter_folder
from pipeline.support.scratch import Scratch


def main(method: str, seed: int) -> None:
    cell: dict[str, str | int] = {"method": method, "seed": seed}
    with stage("train", **cell) as (params, run), scratch("train", **cell) as kept:
        base, pairs, asked = read_base(params), PairSplits.of(read_pairs()), read_probes()
        section, folder = read_section(method, learned=True), adapter_folder(method, seed)
        run.usage.watch(base.model)
        fits = Fits(base, params, section, params.behaviour, asked)
        adapter = fit(fits, pairs, seed, kept)
        if processes.is_main():
            log_fit(adapter, run, folder, keep(fits, adapter, pairs.calibration, seed, folder))


def fit(fits: Fits, pairs: PairSplits, seed: int, kept: Scratch | None = None) -> Adapter:
    params, section = fits.params, fits.section
    study = TrainingStudy(
        modules=params.modules, svd=SVD, rank=params.rank, training=params.training, scratch=kept
    )
    return METHODS[section.method].load().fit(fits.base, pairs, section, study, seed)


def keep(fits: Fits, adapter: Adapter, calibration: Pairs, seed: int, folder: Path) -> Dose:
    """Set the dial, save, certify what was saved; return the dose. A failure leaves no folder."""
    base, dose = fits.base, fits.place_dial(adapter)
    with new_folder(folder) as new:
        fits.save(new, adapter, seed, dose)
        loaded = load_steering(new, base.fingerprint, base.device)
        figures = certificate(base, adapter, loaded, calibration.neutral[:4])
        write_json(new / "certificate.json", figures)
        check(figures, adapter.promised_angle)
    return dose
