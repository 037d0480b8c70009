"""What stages that run a model share: reading earlier stages' outputs, keeping a fitted method."""

from dataclasses import replace
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
from pipeline.support.schemas import check, check_items, read_table


def read_manifest(model: str) -> dict[str, Any]:
    manifest = read_json(MANIFEST, "model")
    if manifest["model"] != model:
        raise InputError(
            f"{MANIFEST} is of {manifest['model']!r}, params.yaml says {model!r}: run `dvc repro "
            "model`"
        )
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
    return replace(
        base,
        options=settings.template_options,
        answer_prefix=read_prefix() if prefix is None else prefix,
        batch_size=settings.batch_size,
    )


def read_prefix() -> str:
    """Return what the reply to a dilemma begins with, as the stage `checks` chose it."""
    return str(read_json(CHECKS / "prefix.json", "checks")["prefix"])


def read_rollouts() -> Rollouts:
    """Return what the base model writes to open prompts, as the stage `checks` recorded it."""
    return Rollouts.read(ROLLOUTS)


def read_pairs() -> pl.DataFrame:
    file = PAIRS / "pairs.parquet"
    return check(read_table(file, "pairs"), schemas.PAIRS, str(file))


def read_controls() -> pl.DataFrame:
    """Return the control items; none where the set goes without them."""
    file = ITEMS / "controls.parquet"
    return check(read_table(file, "evalset"), schemas.ITEMS, str(file))


def read_items() -> pl.DataFrame:
    file = ITEMS / "items.parquet"
    return check_items(read_table(file, "evalset"), str(file))


def read_section(method: str, learned: bool) -> Any:
    """Return the typed params section of a method id, from the file that its cells depend on."""
    file = code_file("methods", method)
    try:
        content = read_json(file, "code")["section"]
        kind = METHODS[content["method"]]
        section = kind.section.model_validate(content)
    except (KeyError, TypeError, ValueError):
        raise InputError(
            f"{file} is of another version of the project: run `dvc repro code`"
        ) from None
    if kind.learned != learned:
        raise InputError(
            f"method {method!r} is {'no ' if learned else 'a '}learned one: `dvc repro` knows "
            "which stage fits it"
        )
    return section


def read_probes() -> Asked | None:
    """Return what the base makes of the behaviour's probes; None where there are none."""
    content = read_json(CHECKS / "probes.json", "checks")
    return Asked(**content) if content else None


def place_dial(base: Base, steering: Steering, asked: Asked | None, params: Params) -> Dose:
    """Return the dose of a fitted method; where its sign is free, let the probes set it there."""
    dose = calibrate(base, steering, read_rollouts(), params.dose)
    if steering.free_sign:
        steering.sign = decide(base, steering, asked)
        print(steering.sign.said)
        if steering.sign.flipped:
            dose = Dose(steering.unit, dose.negative, dose.positive, dose.reached)
    return dose


def save_fit(
    folder: Path, steering: Steering, method: str, base: Base, about: dict[str, Any], dose: Dose
) -> None:
    """Save a fitted method with its base and its dose."""
    known = ("model", "source", "revision", "quantisation", "weights_sha256")
    about = about | {key: base.manifest[key] for key in known} | {"dose": dose.record()}
    save_steering(folder, method, steering, about)


def log_fit(steering: Steering, run: Run, folder: Path, dose: Dose) -> None:
    """Log the summary, the dose and the curves, and leave the record."""
    if steering.history is not None:
        for split, part in steering.history.group_by("split", maintain_order=True):
            rows = part.drop("split").iter_rows(named=True)
            named = [
                (r.pop("step"), {f"{split[0]}/{k}": v for k, v in r.items() if v is not None})
                for r in rows
            ]
            run.curve(named)
    known = {key: float(value) for key, value in dose.record().items() if value is not None}
    run.log(steering.summary | {f"dose_{key}": value for key, value in known.items()})
    if steering.sign:
        figures = {key: value for key, value in steering.sign._asdict().items() if key != "why"}
        run.log(
            {f"sign_{key}": float(value) for key, value in figures.items() if value is not None}
        )
    run.record(folder)
