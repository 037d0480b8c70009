"""Every path of the project, relative to its root."""

from pathlib import Path

BEHAVIOURS = Path("data/raw/behaviours")
SUFFIXES = Path("data/raw/suffixes")
PROMPTS = Path("data/raw/prompts")
MANIFEST = Path("models/base/manifest.json")
METHOD_FILES = Path("models/methods")
SVD = Path("models/svd")
COMPOSITION = Path("models/composition")
PAIRS = Path("data/pairs")
ITEMS = Path("data/items")
SCORES = Path("data/scores")
ADAPTERS = Path("models/adapters")
REPORTS = Path("reports")
BASE = "base"  # the untouched model, in the place of a method


def behaviour_file(behaviour: str) -> Path:
    return BEHAVIOURS / f"{behaviour}.yaml"


def method_file(method: str) -> Path:
    return METHOD_FILES / f"{method}.json"


def adapter_folder(method: str, seed: int) -> Path:
    return ADAPTERS / method / f"seed{seed}"


def scores_folder(method: str, seed: int | None = None) -> Path:
    """Return the folder of one cell's scores; a baseline holds all its seeds in one."""
    return SCORES / (method if seed is None else f"{method}-seed{seed}")


def cell_folders(
    methods: list[str], baselines: list[str], seeds: list[int]
) -> dict[str, list[Path]]:
    """Return each method's score folders: exactly the cells that the parameters name, whatever else
    lies there.
    """
    learned = {method: [scores_folder(method, seed) for seed in seeds] for method in methods}
    return learned | {method: [scores_folder(method)] for method in baselines}
