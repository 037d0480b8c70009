"""What stages that run a model share: reading earlier stages' outputs, keeping a fitted method."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from pipeline.lm.base import Base
from pipeline.lm.load import load_model, load_tokenizer
from pipeline.steering import METHODS
from pipeline.steering.base import Steering
from pipeline.steering.dose import Dose, calibrate
from pipeline.steering.rollouts import Rollouts
from pipeline.steering.saved import save_steering
from pipeline.steering.sign import Asked, decide
from pipeline.study.params import Params
from pipeline.study.tracking import Run
from pipeline.support import schemas
from pipeline.support.errors import InputError
from pipeline.support.files import read_json
from pipeline.support.paths import CHECKS, ITEMS, MANIFEST, PAIRS, ROLLOUTS, code_file

KNOWN = ("model", "source", "revision", "quantisation", "weights_sha256")  # of a fit's base model


def read_manifest(model: str) -> dict[str, Any]:
    manifest = read_json(MANIFEST, "model")
    if manifest["model"] != model:
        said = f"{MANIFEST} is of {manifest['model']!r}, params.yaml says {model!r}"
        raise InputError(f"{said}: run `dvc repro model`")
    return manifest


def read_base(params: Params, scores: bool = False, prefix: str | None = None) -> Base:
    """Return the frozen model on its device, with the recorded answer prefix or `prefix`.

    With `scores` it has the settings of scoring, which stages that only fit do not declare.
    """
    manifest, settings = read_manifest(params.model), params.models[params.model]
    model = load_model(manifest, settings.dtype, params.device)
    base = Base(manifest, model, load_tokenizer(manifest))
    if not scores:
        return base
    prefix = read_prefix() if prefix is None else prefix
    size, options = settings.batch_size, settings.template_options
    return replace(base, options=options, answer_prefix=prefix, batch_size=size)


def read(file: Path, stage: str, schema: schemas.Schema) -> pl.DataFrame:
    """Return a table of an earlier stage, its columns checked."""
    return schemas.check(schemas.read_table(file, stage), schema, str(file))


def read_pairs() -> pl.DataFrame:
    return read(PAIRS / "pairs.parquet", "pairs", schemas.PAIRS)


def read_controls() -> pl.DataFrame:
    """Return the control items; none where the set goes without them."""
    return read(ITEMS / "controls.parquet", "evalset", schemas.ITEMS)


def read_items() -> pl.DataFrame:
    file = ITEMS / "items.parquet"
    return schemas.check_items(schemas.read_table(file, "evalset"), str(file))


def read_section(method: str, learned: bool) -> Any:
    """Return the typed params section of a method id, from the file that its cells depend on."""
    file = code_file("methods", method)
    try:
        content = read_json(file, "code")["section"]
        kind = METHODS[content["method"]]
        section = kind.section.model_validate(content)
    except (KeyError, TypeError, ValueError):
        said = f"{file} is of another version of the project: run `dvc repro code`"
        raise InputError(said) from None
    if kind.learned != learned:
        said = f"method {method!r} is {'no ' if learned else 'a '}learned one"
        raise InputError(f"{said}: `dvc repro` knows which stage fits it")
    return section


def read_probes() -> Asked | None:
    """Return what the base makes of the behaviour's probes; None where there are none."""
    content = read_json(CHECKS / "probes.json", "checks")
    return Asked(**content) if content else None


def read_prefix() -> str:
    """Return what the reply to a dilemma begins with, as the stage `checks` chose it."""
    return str(read_json(CHECKS / "prefix.json", "checks")["prefix"])


@dataclass(frozen=True)
class Fits:
    """What the fits of one method for one behaviour share."""

    base: Base
    params: Params
    section: Any
    """Of the method."""
    behaviour: str
    asked: Asked | None
    """What the base makes of the behaviour's probes."""

    def place_dial(self, steering: Steering) -> Dose:
        """Return the dose of a fitted method; where its sign is free, the probes set it there."""
        dose = calibrate(self.base, steering, Rollouts.read(ROLLOUTS), self.params.dose)
        if steering.free_sign:
            steering.sign = decide(self.base, steering, self.asked)
            print(steering.sign.said)
            if steering.sign.flipped:
                dose = Dose(steering.unit, dose.negative, dose.positive, dose.reached)
        return dose

    def save(self, folder: Path, steering: Steering, seed: int, dose: Dose) -> None:
        about = {"behaviour": self.behaviour, "seed": seed}
        about |= {key: self.base.manifest[key] for key in KNOWN}
        about |= {"answer_prefix": read_prefix(), "dose": dose.record()}
        save_steering(folder, self.section.method, steering, about)


def log_fit(steering: Steering, run: Run, folder: Path, dose: Dose) -> None:
    """Log the summary, the dose, the sign and the curves, and leave the record."""
    if steering.history is not None:
        for (split,), part in steering.history.group_by("split", maintain_order=True):
            rows = part.drop("split").to_dicts()
            run.curve([
                (row.pop("step"), {f"{split}/{k}": v for k, v in row.items() if v is not None})
                for row in rows
            ])  # fmt: skip
    figures = {f"dose_{key}": value for key, value in dose.record().items()}
    if steering.sign:
        figures |= {f"sign_{k}": v for k, v in steering.sign._asdict().items() if k != "why"}
    known = {key: float(value) for key, value in figures.items() if value is not None}
    run.log(steering.summary | known)
    run.record(folder)
