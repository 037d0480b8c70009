"""Which files a method's results depend on: what its own file imports of pipeline/steering and
pipeline/lm, directly or not.
"""

import ast
import hashlib
from pathlib import Path

PACKAGES = ("pipeline.steering", "pipeline.lm")


def file_of(module: str, root: Path) -> Path | None:
    path = root / module.replace(".", "/")
    return (
        path.with_suffix(".py")
        if path.with_suffix(".py").exists()
        else path / "__init__.py"
        if path.is_dir()
        else None
    )


def imports(file: Path, root: Path) -> set[str]:
    """Return the project's modules that a file imports at run time (not for types alone)."""
    tree = ast.parse(file.read_text())
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if (
            id(node) not in for_types
            and isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("pipeline")
        ):
            for name in node.names:
                submodule = f"{node.module}.{name.name}"
                found.add(submodule if file_of(submodule, root) else str(node.module))
    return found


def closure(module: str, root: Path, ignored: frozenset[str] = frozenset()) -> set[str]:
    """Return a module and all that it imports, directly or not, without the ignored ones."""
    todo, seen = [module], set[str]()
    while todo:
        current = todo.pop()
        file = file_of(current, root)
        if current not in seen and current not in ignored and file:
            seen.add(current)
            todo += imports(file, root)
    return seen


def code_hashes(module: str, root: Path = Path()) -> dict[str, str]:
    """Return path -> sha256 of a steering module's own file and of those that it depends on;
    registries are left out.
    """
    files = {
        file_of(name, root)
        for name in closure(f"pipeline.steering.methods.{module}", root)
        if name.startswith(PACKAGES) and name not in PACKAGES
    }
    ordered = sorted(file for file in files if file)
    return {
        file.relative_to(root).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in ordered
    }
