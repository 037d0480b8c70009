"""What a report needs to be made again; without times, so that one commit gives one page."""

import hashlib
import itertools
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.study.params import Params
from pipeline.study.store import commit
from pipeline.support.git import git
from pipeline.support.section import read_yaml

PACKAGES = (
    "torch", "transformers", "safetensors", "numpy", "scipy", "polars", "statsmodels", "matplotlib",
    "dvc", "mlflow",
)  # fmt: skip
CODE = ("pipeline", "dvc.yaml", "data/raw", "models/reference")
HASHED = ("data/pairs", "data/items", "models/svd")


def cells(
    stages: list[str], methods: list[str], baselines: list[str], seeds: list[int]
) -> set[str]:
    """Return the names of all stages and cells of a study, as dvc.lock writes them."""
    learned = itertools.product(("train", "evaluate"), methods, seeds)
    plain = itertools.product(("baselines", "evaluate_baselines"), baselines)
    matrix = {f"{stage}@{method}-{seed}" for stage, method, seed in learned}
    return {*stages, *matrix, *(f"{stage}@{method}" for stage, method in plain)}


def locked(methods: list[str], baselines: list[str], seeds: list[int]) -> dict[str, Any]:
    """Return what dvc.lock says of this study's stages before the report; it may hold others."""
    if not Path("dvc.lock").exists():
        return {}
    stages = read_yaml("dvc.lock")["stages"]
    own = cells([name for name in stages if "@" not in name], methods, baselines, seeds)
    return {name: stages[name] for name in sorted((own - {"report"}) & stages.keys())}


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def edited() -> list[str]:
    """Return the files of code and raw data that differ from the commit."""
    return [line[3:] for line in (git("status", "--porcelain", "--", *CODE) or "").splitlines()]


def manifest(
    model: dict[str, Any], items: dict[str, Any], params: Params, auto: str
) -> dict[str, str]:
    """Return name -> value from the records of base model and items; `auto` is the device meant."""
    lock, changed = locked(params.methods, params.baselines, params.seeds), edited()
    outs = [out for stage in lock.values() for out in stage.get("outs", [])]
    hashes = {out["path"]: out["md5"] for out in outs if "md5" in out}
    edits = f", with edits to {', '.join(changed)}" if changed else ""
    read_at = f", commit {items['commit']}" if items.get("commit") else ""
    locked_as = digest(lock) if lock else "none: not run by DVC"
    return {
        "commit": (commit() or "none: not a git checkout") + edits,
        "dvc.lock (this study's stages before the report, sha256)": locked_as,
        "model": f"{model['source']}, revision {model['revision'] or 'none (a local folder)'}",
        "weights (sha256)": model["weights_sha256"],
        "evaluation set": f"{items['source']}, {items['dilemmas']} dilemmas{read_at}",
        **{f"{path} (md5)": hashes[path] for path in HASHED if path in hashes},
        "seeds": ", ".join(map(str, params.seeds)),
        "device": params.device + (f", here {auto}" if params.device == "auto" else ""),
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }
