"""The machine and its Python: versions, space, memory, devices."""

import platform
import shutil
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipeline.app.doctor import Finding
from pipeline.study.params import load_params
from pipeline.support.errors import InputError
from pipeline.support.section import read_yaml

GIB = 2**30
LEAST_DISK = 1 * GIB  # the bundled study with its cache and its store stays well below


def project() -> dict:
    try:
        return tomllib.loads(Path("pyproject.toml").read_text())["project"]
    except FileNotFoundError:
        raise InputError(
            "pyproject.toml does not exist: run doctor from the project's root"
        ) from None


def python() -> Finding:
    from packaging.specifiers import SpecifierSet

    own, wanted = platform.python_version(), project()["requires-python"]
    if SpecifierSet(wanted).contains(own, prereleases=True):
        return Finding("Python", "ok", own)
    return Finding(
        "Python",
        "wrong",
        f"{own}, the project needs {wanted}",
        "make .venv again: `rm -r .venv && make repro PYTHON=...`",
    )


def packages() -> Finding:
    from packaging.requirements import Requirement

    bad = []
    for requirement in map(Requirement, project()["dependencies"]):
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            bad.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            bad.append(f"{requirement.name} is {found}, needed is {requirement.specifier}")
    if bad:
        return Finding(
            "packages",
            "wrong",
            "; ".join(bad),
            "`pip install --constraint requirements.lock --editable .`",
        )
    return Finding("packages", "ok", "all within the ranges of pyproject.toml")


def disk() -> Finding:
    free = shutil.disk_usage(".").free
    if free < LEAST_DISK:
        return Finding(
            "disk",
            "wrong",
            f"{free / GIB:.1f} GiB free",
            "free some: `dvc gc --workspace` drops old outputs from DVC's cache",
        )
    return Finding("disk", "ok", f"{free / GIB:.1f} GiB free")


def available_memory() -> int:
    import psutil

    return psutil.virtual_memory().available


def memory() -> Finding:
    params, free = load_params(), available_memory()
    entry = params.models[params.model]
    files = list(Path(entry.source).glob("*.safetensors"))
    if not files:
        return Finding(
            "memory",
            "ok",
            f"{free / GIB:.1f} GiB free; the model is not here yet to compare it with",
        )
    # Weights may be held in twice the bytes that they take on disk, and their decompositions beside
    # them.
    needed = GIB + 4 * sum(file.stat().st_size for file in files)
    if free < needed:
        said = f"{free / GIB:.1f} GiB free, {params.model} needs about {needed / GIB:.1f}"
        return Finding(
            "memory", "wrong", said, "close other programs, or set `model` to a smaller one"
        )
    return Finding(
        "memory", "ok", f"{free / GIB:.1f} GiB free, {params.model} needs about {needed / GIB:.1f}"
    )


def device() -> Finding:
    wanted = load_params().device
    if (
        wanted in ("auto", "cpu")
        and not (shutil.which("nvidia-smi") and wanted == "auto")
        and platform.system() != "Darwin"
    ):
        return Finding("device", "ok", "cpu")
    import torch

    if wanted == "auto":
        if shutil.which("nvidia-smi") and not torch.cuda.is_available():
            said = (
                f"a GPU's driver is here, but torch {torch.__version__} cannot use it, so the "
                "CPU is taken"
            )
            return Finding(
                "device", "note", said, "install a torch build with CUDA, or set device: cpu"
            )
        return Finding(
            "device",
            "ok",
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu",
        )
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError):
        return Finding(
            "device",
            "wrong",
            f"params.yaml asks for {wanted!r}, which torch cannot use here",
            "set device: auto",
        )
    return Finding("device", "ok", wanted)


def quantisation() -> Finding:
    params = read_yaml("params.yaml")
    wanted = (
        params.get("quantisation")
        or params["models"][params["model"]].get("quantisation")
        or "none"
    )
    if wanted == "none":
        return Finding("quantisation", "ok", "none asked for")
    try:
        return Finding("quantisation", "ok", f"{wanted}, by bitsandbytes {version('bitsandbytes')}")
    except PackageNotFoundError:
        return Finding(
            "quantisation",
            "wrong",
            f"params.yaml asks for {wanted}, and bitsandbytes is missing",
            "`pip install bitsandbytes`",
        )


CHECKS = (python, packages, disk, memory, device, quantisation)
