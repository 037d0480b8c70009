"""The model card of an export, from what is recorded with the adapter and measured with it."""

from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from pipeline.app.export.usage import FORMS, usage
from pipeline.steering import METHODS
from pipeline.steering.saved import adapter_hash, base_name
from pipeline.support.errors import InputError
from pipeline.support.files import new_file, read_json
from pipeline.support.paths import REPORTS


def evaluation(adapter: Path, reports: Path = REPORTS) -> dict[str, Any]:
    """Return `cell`, `evalset` and effect `rows` of the evaluation of exactly this adapter, if any.

    The stage `effects` records a hash of every adapter whose scores it read. So numbers of another
    training of the same method and seed are not taken for this one's.
    """
    record, table = reports / "adapters.json", reports / "effects.csv"
    if not (record.exists() and table.exists()):
        return {}
    known, own = read_json(record), adapter_hash(adapter)
    cell = next((name for name, hash in known["adapters"].items() if hash == own), None)
    if cell is None:
        return {}
    method, seed = cell.rsplit("/seed", 1)
    frame = pl.read_csv(table, infer_schema_length=None)
    if "target_effect_log_odds" not in frame.columns:
        raise InputError(f"{table} has no effects in log-odds: run `dvc repro effects` again")
    rows = frame.filter(pl.col("method") == method, pl.col("seed").cast(pl.String) == seed).sort(
        "coefficient"
    )
    return {"cell": cell, "evalset": known["evalset"], "rows": rows.to_dicts()}


def synthetic(about: dict[str, Any], evalset: str | None) -> str | None:
    """Return what is synthetic about an adapter, if anything."""
    if about.get("model") == "reference":
        return (
            "the base is the project's bundled model organism, which knows one generated world "
            "and no other"
        )
    return "the evaluation set is of a generated world" if evalset == "reference" else None


def write_card(
    folder: Path,
    adapters: list[Path],
    about: dict[str, Any],
    to: str,
    coefficient: float,
    check: dict[str, float],
) -> None:
    """Write README.md of an export in the form `to`; `check` are figures of the export itself."""
    alone = adapters[0] if "methods" not in about else None
    found, certificate = (evaluation(alone), alone / "certificate.json") if alone else ({}, None)
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(
        Path(__file__).with_name("card.md.jinja").read_text(encoding="utf-8")
    )
    methods = about.get("methods", [about["method"]])
    text = template.render(
        about={"behaviour": None, "dose": None} | about, to=to, form=FORMS[to], check=check,
        base=base_name(about), base_hub=about["source"] if about.get("revision") else None,
        synthetic=synthetic(about, found.get("evalset")), shape=shape(about["metadata"]),
        coefficient=None if to == "hub" else coefficient, usage=usage(to, about, coefficient),
        rows=found.get("rows"), evalset=found.get("evalset"), cell=found.get("cell"),
        certificate=read_json(certificate) if certificate and certificate.exists() else None,
        source="; ".join(dict.fromkeys(METHODS[name].load().source for name in methods)),
        methods=list(dict.fromkeys(methods)),
    )  # fmt: skip
    with new_file(folder / "README.md") as file:
        file.write_text(text.rstrip() + "\n", encoding="utf-8")


def shape(metadata: dict[str, Any]) -> dict[str, Any]:
    """Return the plain numbers and words among an adapter's metadata."""
    return {
        key: value
        for key, value in metadata.items()
        if isinstance(value, str | int | float) and "\n" not in str(value)
    }
