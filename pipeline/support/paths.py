"""Every path of the project, relative to its root, and the paths that a user gives."""

import os
from pathlib import Path

# DVC_ROOT is the user's checkout even when a stage runs in a queue's temporary workspace.
ROOT = Path(os.environ.get("DVC_ROOT") or ".").resolve()

BEHAVIOURS = Path("data/raw/behaviours")
SUFFIXES = Path("data/raw/suffixes")
PROMPTS = Path("data/raw/prompts")
PREFIX_QUESTIONS = PROMPTS / "prefix.json"
EVERYDAY = Path("data/raw/everyday")
CONTROLS = Path("data/raw/controls/controls.csv")
SOURCES = Path("data/sources")
MANIFEST = Path("models/base/manifest.json")
CODE = Path("models/code")
CHECKS = Path("models/checks")
ROLLOUTS = CHECKS / "rollouts.json"
SVD = Path("models/svd")
COMPOSITION = Path("models/composition")
PAIRS = Path("data/pairs")
ITEMS = Path("data/items")
SCORES = Path("data/scores")
ADAPTERS = Path("models/adapters")
REPORTS = Path("reports")
# Read by the hub's client, matplotlib, torch, MLflow and TLS.
VARIABLES = (
    *("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_XET_CACHE", "HF_ASSETS_CACHE"),
    *("HF_TOKEN_PATH", "HF_MODULES_CACHE", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"),
    *("TORCH_HOME", "TMPDIR", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE"),
    *("CURL_CA_BUNDLE", "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_CLIENT_CERT_PATH"),
)
BASE = "base"  # the untouched model, in the place of a method


def resolve_source(source: str) -> Path | None:
    """Return the file or folder that a user's text names; None where there is none, e.g. a hub id.

    `~` and `$VARIABLES` expand. A relative path is looked for in the working folder, which holds an
    experiment's own version of a tracked file. Then it is looked for in the user's checkout.
    """
    path = Path(os.path.expandvars(source)).expanduser()
    if not source.strip():
        return None
    return next((place for place in (path, ROOT / path) if place.exists()), None)


def settle_variables() -> None:
    """Let paths in the variables of libraries begin in the user's checkout, before they are read.

    A queue's temporary workspace would else have a cache of its own, and lose it.
    """
    for name in VARIABLES:
        if value := os.environ.get(name):
            os.environ[name] = str(ROOT / Path(os.path.expandvars(value)).expanduser())


def behaviour_file(behaviour: str) -> Path:
    return BEHAVIOURS / f"{behaviour}.yaml"


def prompts_file(name: str) -> Path:
    return PROMPTS / f"{name}.json"


def code_file(kind: str, name: str) -> Path:
    """Return the hashes of a stage, an evaluation set or a method (`kind` in the plural)."""
    return CODE / kind / f"{name}.json"


def adapter_folder(method: str, seed: int) -> Path:
    return ADAPTERS / method / f"seed{seed}"


def scores_folder(method: str, seed: int | None = None) -> Path:
    """Return the folder of one cell's scores; a baseline holds all its seeds in one."""
    return SCORES / (method if seed is None else f"{method}-seed{seed}")


def cell_folders(
    methods: list[str], baselines: list[str], seeds: list[int]
) -> dict[str, list[Path]]:
    """Return each method's score folders: only those that the parameters name, others may exist."""
    learned = {method: [scores_folder(method, seed) for seed in seeds] for method in methods}
    return learned | {method: [scores_folder(method)] for method in baselines}
