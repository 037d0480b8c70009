"""The model card of an export: what is recorded and measured, and code that uses it as it stands.

The code runs once its placeholders, HERE and BASE, are folders or hub ids.
"""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from pipeline.steering import METHODS
from pipeline.steering.saved import adapter_hash, base_name
from pipeline.support.errors import InputError
from pipeline.support.files import read_json
from pipeline.support.paths import REPORTS

HERE, BASE = "this/repository", "path/to/base"
FORMS = {
    "bake": "a checkpoint of the steered model",
    "lora": "an exact LoRA",
    "hub": "an adapter with a dial",
    "vector": "a control vector",
    "gguf": "a control vector for llama.cpp",
}
NEEDS = {
    "bake": ("torch", "transformers"),
    "lora": ("torch", "transformers", "peft"),
    "vector": ("torch", "transformers", "safetensors", "huggingface_hub"),
}


def install(to: str) -> str:
    """Return how to install what the code needs, in the versions that the export was checked in."""
    if to == "hub":
        return "pip install ./innerpissa  # a checkout of the project that made this"
    pinned = (f"{name}=={version(name).split('+')[0]}" for name in NEEDS.get(to, ()))
    return f"pip install {' '.join(pinned)}"


def base_arguments(about: dict[str, Any]) -> str:
    """Return the arguments that name the base: hub id and commit, or a placeholder for a folder."""
    revision = about.get("revision")
    return f'"{about["source"]}", revision="{revision}"' if revision else f'"{BASE}"'


def evaluation(adapter: Path) -> dict[str, Any]:
    """Return `cell`, `evalset` and effect `rows` of the evaluation of exactly this adapter, if any.

    The stage `effects` records a hash of every adapter whose scores it read. So numbers of another
    training of the same method and seed are not taken for this one's.
    """
    record, table = REPORTS / "adapters.json", REPORTS / "effects.csv"
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
    own_rows = frame.filter(pl.col("method") == method, pl.col("seed").cast(pl.String) == seed)
    rows = own_rows.sort("coefficient").to_dicts()
    return {"cell": cell, "evalset": known["evalset"], "rows": rows}


def synthetic(about: dict[str, Any], evalset: str | None) -> str | None:
    """Return what is synthetic about an adapter, if anything."""
    if about.get("model") == "reference":
        return (
            "the base is the project's bundled model organism, which knows one generated world "
            "and no other"
        )
    return "the evaluation set is of a generated world" if evalset == "reference" else None


def card(
    adapters: list[Path], about: dict[str, Any], to: str, coefficient: float,
    check: dict[str, float],
) -> str:  # fmt: skip
    """Return README.md of an export in the form `to`; `check` are figures of the export itself."""
    alone = "methods" not in about
    measured = evaluation(adapters[0]) if alone else {}
    certificate = adapters[0] / "certificate.json"
    methods = about.get("methods", [about["method"]])
    # The plain numbers and words among an adapter's metadata.
    plain = {k: v for k, v in about["metadata"].items() if isinstance(v, str | int | float)}
    folder = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=folder, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    text = environment.get_template("card.md.jinja").render(
        about={"behaviour": None, "dose": None, "revision": None} | about, to=to, form=FORMS[to],
        base=base_name(about), base_hub=about["source"] if about.get("revision") else None,
        here=HERE, placeholder=BASE, arguments=base_arguments(about), install=install(to),
        synthetic=synthetic(about, measured.get("evalset")), check=check, coefficient=coefficient,
        rows=measured.get("rows"), evalset=measured.get("evalset"), cell=measured.get("cell"),
        shape={key: value for key, value in plain.items() if "\n" not in str(value)},
        certificate=read_json(certificate) if alone and certificate.exists() else None,
        source="; ".join(dict.fromkeys(METHODS[name].load().source for name in methods)),
        methods=list(dict.fromkeys(methods)),
    )  # fmt: skip
    return text.rstrip() + "\n"
