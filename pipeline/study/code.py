"""What a cell's result depends on in the code: every definition that its entry function reaches.

A definition is a function, a class or a constant of a module. `pipeline.study.syntax` hashes its
syntax tree and finds the names in it. Two edges that no name shows have entries of their own: the
class that METHODS loads, and the chosen evaluation set.
"""

import hashlib
import re
from collections import defaultdict
from pathlib import Path

from pipeline.steering import METHODS
from pipeline.study.syntax import Definition, Module
from pipeline.support.errors import InputError
from pipeline.support.files import read_json

PROJECT = Path(__file__).parents[2]
# No result is computed here: parameters (every stage depends on their values), paths, files,
# progress, errors and tracking. Nor in the two registries, which only say where code is.
CALM = re.compile(
    r"pipeline\.(support\.(?!(schemas|formats)$)\w+|study\.(code|syntax|declared|params|store"
    r"|tracking|variants)|stages\.stage|steering|evalsets)"
)
# Each stage and the file whose main() it calls.
OWN = ("model", "pairs", "checks", "svd", "evalset", "train", "baselines", "composition", "effects")
SCORES = dict.fromkeys(("base", "evaluate", "evaluate_baselines"), "evaluate")
STAGES = {name: name for name in (*OWN, "report")} | SCORES


def entry(kind: str, name: str) -> str:
    """Return the dotted name of a stage's function, a set's module or a method's class."""
    if kind == "stages":
        return f"pipeline.stages.{STAGES[name]}.main"
    if kind == "evalsets":
        return f"pipeline.evalsets.{name}"
    return f"pipeline.steering.methods.{METHODS[name].code.replace(':', '.')}"


def check_current(file: Path) -> None:
    """Refuse a file of hashes that is missing, damaged, or of other code than runs now."""
    kind, name = file.parent.name, file.stem
    if not file.exists():
        first = f"name {name!r} in methods or baselines, and " if kind == "methods" else ""
        raise InputError(f"{file} does not exist: {first}run `dvc repro code`")
    content = read_json(file, "code")
    try:
        name = content["section"]["method"] if kind == "methods" else name
        same = content["code"] == Code().hashes(entry(kind, name))
    except (KeyError, TypeError):
        same = False
    if not same:
        raise InputError(f"{file} is of another version of the project: run `dvc repro code`")


class Code:
    """The project's modules below a root, each read once."""

    def __init__(self, root: Path = PROJECT):
        self.root = root
        self.modules: dict[str, Module | None] = {}

    def module(self, name: str) -> Module | None:
        """Return a module of the project, or None for any other name."""
        if name not in self.modules:
            path = self.root / name.replace(".", "/")
            files = path.with_suffix(".py"), path / "__init__.py"
            file = next((file for file in files if file.exists()), None)
            self.modules[name] = Module(name, file, self.is_module) if file else None
        return self.modules[name]

    def is_module(self, name: str) -> bool:
        return self.module(name) is not None

    def locate(self, dotted: str) -> list[tuple[Module, str]]:
        """Return where a name is defined; for a whole module all of its names."""
        if module := self.module(dotted):
            return [] if CALM.fullmatch(dotted) else [(module, name) for name in module.statements]
        place, _, name = dotted.rpartition(".")
        module = self.module(place)
        if module and CALM.fullmatch(place):
            return []
        if module and name in module.statements:
            return [(module, name)]
        if module and name in module.imported:
            return self.locate(module.imported[name])
        raise ValueError(f"{dotted} is nowhere in the project")

    def closure(self, start: str) -> dict[tuple[str, str], list[Definition]]:
        """Return (module, name) -> definitions of all that one reaches, itself included."""
        todo = [start]
        reached: dict[tuple[str, str], list[Definition]] = {}
        while todo:
            for module, name in self.locate(todo.pop()):
                if (module.name, name) not in reached:
                    reached[module.name, name] = module.definitions(name)
                    todo += [used for one in reached[module.name, name] for used in one.uses]
        return reached

    def hashes(self, start: str) -> dict[str, str]:
        """Return name -> hash of all that a definition reaches; a name's several hashes sorted."""
        digests: dict[str, set[str]] = defaultdict(set)
        for (_, name), definitions in self.closure(start).items():
            for definition in definitions:
                digests[name].add(definition.digest)
                for file in definition.files:
                    digests[file.name].add(hashlib.sha256(file.read_bytes()).hexdigest())
        if start == entry("stages", "report"):
            digests["shown"].add(hashlib.sha256(repr(self.shown()).encode()).hexdigest())
        return {name: " ".join(sorted(digests[name])) for name in sorted(digests)}

    def shown(self) -> list[list[str]]:
        """Return what the files of all methods set for the report alone: labels and looks."""
        modules = [self.module(entry("methods", name).rpartition(".")[0]) for name in METHODS]
        return [module.shown for module in modules if module]
