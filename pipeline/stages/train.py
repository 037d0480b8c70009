"""train: one learned method and seed -> models/adapters/<method>/seed<n>/, with its dose and its certificate."""

from pathlib import Path
from typing import Any

from pipeline.declared import Declared
from pipeline.files import new_folder, write_json
from pipeline.paths import SVD, adapter_folder
from pipeline.stages.base import log_fit, read_base, read_pairs, read_section, save_fit
from pipeline.stages.stage import stage
from pipeline.steering import METHODS
from pipeline.steering.base import Context, Pairs, Steering, load_steering
from pipeline.steering.certificate import certificate, check
from pipeline.steering.dose import calibrate, cost_function


def main(method: str, seed: int) -> None:
    with stage("train", method=method, seed=seed) as (params, run):
        base, frame, folder = read_base(params), read_pairs(), adapter_folder(method, seed)
        split = Pairs.of(frame, "train"), Pairs.of(frame, "calibration")
        steering, dose = train(base, split, read_section(method, learned=True), params, params["behaviour"], seed, folder)
        log_fit(steering, run, folder, dose)


def train(
    base: tuple, split: tuple[Pairs, Pairs], section: Any, params: Declared, behaviour: str, seed: int, folder: Path
) -> tuple[Steering, dict]:
    """Fit, find the dose, save, and certify what was saved; the folder exists only if all went well."""
    manifest, model, tokenizer = base
    context = Context(section=section, rank=params["rank"], modules=params["modules"], training=params["training"], svd=SVD)
    steering = METHODS[section.method].load().fit(model, tokenizer, *split, context, seed)
    dose = calibrate(cost_function(model, tokenizer, steering, split[1], params["dose"].measure), params["dose"])
    with new_folder(folder) as new:
        save_fit(new, steering, section, manifest, behaviour, seed, dose)
        loaded = load_steering(new, manifest["weights_sha256"], model.device)
        found = certificate(model, tokenizer, steering, loaded, split[1].neutral[:4])
        write_json(new / "certificate.json", found)
        check(found, section.max_angle if getattr(section, "angle_bound", None) == "spectral" else None)
    return steering, dose
