"""What a report needs to be made again: commit, locked hashes, packages. No times: one commit gives
one page.
"""

import hashlib
import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pipeline.study.params import Params
from pipeline.study.store import commit
from pipeline.support.section import read_yaml

PACKAGES = (
    "torch",
    "transformers",
    "safetensors",
    "numpy",
    "scipy",
    "polars",
    "statsmodels",
    "matplotlib",
    "dvc",
    "mlflow",
)
CODE = ("pipeline", "dvc.yaml", "data/raw", "models/reference")
HASHED = ("data/pairs", "data/items", "models/svd")


def cells(
    stages: list[str], methods: list[str], baselines: list[str], seeds: list[int]
) -> set[str]:
    """Return the names of all stages and cells that a study consists of, as dvc.lock writes
    them.
    """
    learned = {
        f"{stage}@{method}-{seed}"
        for stage in ("train", "evaluate")
        for method in methods
        for seed in seeds
    }
    plain = {
        f"{stage}@{method}" for stage in ("baselines", "evaluate_baselines") for method in baselines
    }
    return {*stages, *learned, *plain}


def locked(methods: list[str], baselines: list[str], seeds: list[int]) -> dict[str, Any]:
    """Return what dvc.lock says of this study's stages before the report (it may still hold cells
    of others).
    """
    if not Path("dvc.lock").exists():
        return {}
    stages = read_yaml("dvc.lock")["stages"]
    wanted = cells([name for name in stages if "@" not in name], methods, baselines, seeds) - {
        "report"
    }
    return {name: stages[name] for name in sorted(wanted & stages.keys())}


def digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def edited() -> list[str]:
    """Return the files of code and raw data that differ from the commit."""
    command = ["git", "status", "--porcelain", "--", *CODE]
    found = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return [line[3:] for line in found.splitlines()]


def manifest(model: dict[str, Any], params: Params, auto: str) -> dict[str, str]:
    """Return name -> value, given the base model's manifest, what the stage declares, and which
    device `auto` is here.
    """
    lock = locked(params.methods, params.baselines, params.seeds)
    outs = {
        out["path"]: out["md5"]
        for stage in lock.values()
        for out in stage.get("outs", [])
        if "md5" in out
    }
    changed = edited()
    return {
        "commit": (commit() or "none: not a git checkout")
        + (f", with edits to {', '.join(changed)}" if changed else ""),
        "dvc.lock (this study's stages before the report, sha256)": digest(lock)
        if lock
        else "none: not run by DVC",
        "model": f"{model['source']}, revision {model['revision'] or 'none (a local folder)'}",
        "weights (sha256)": model["weights_sha256"],
        **{f"{path} (md5)": outs[path] for path in HASHED if path in outs},
        "seeds": ", ".join(map(str, params.seeds)),
        "device": params.device + (f", here {auto}" if params.device == "auto" else ""),
        "platform": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES),
    }
