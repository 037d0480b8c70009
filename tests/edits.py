"""Edits of a copy of the code, as a developer makes them."""

import ast
from pathlib import Path


def find(root: Path, name: str) -> tuple[Path, ast.Module, ast.stmt]:
    """Return the one definition of that name, wherever it lives, with its file and its tree."""
    places = [
        (file, tree, statement)
        for file in sorted((root / "pipeline").rglob("*.py"))
        for tree in [ast.parse(file.read_text(encoding="utf-8"))]
        for statement in tree.body
        if getattr(statement, "name", None) == name
    ]
    assert len(places) == 1, f"{len(places)} definitions are called {name}"
    return places[0]


def change(root: Path, name: str) -> None:
    """Add a statement to a function or a class, which changes no number."""
    file, tree, definition = find(root, name)
    definition.body.insert(0, ast.parse("edited = 1").body[0])
    file.write_text(ast.unparse(tree), encoding="utf-8")


def move(root: Path, name: str) -> None:
    """Move a function to a module of its own, from which its old module imports it."""
    file, tree, definition = find(root, name)
    imports = [s for s in tree.body if isinstance(s, ast.Import | ast.ImportFrom)]
    new = root / "pipeline/lm/moved.py"
    new.write_text("\n".join(map(ast.unparse, [*imports, definition])), encoding="utf-8")
    tree.body.remove(definition)
    last = max(map(tree.body.index, imports))
    tree.body.insert(last + 1, ast.parse(f"from pipeline.lm.moved import {name}").body[0])
    file.write_text(ast.unparse(tree), encoding="utf-8")


class Redocumented(ast.NodeTransformer):
    """Another docstring everywhere, and other types of arguments."""

    def visit_Expr(self, node: ast.Expr) -> ast.Expr:
        text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Expr(ast.Constant("Another text.")) if text else node

    def visit_Lambda(self, node: ast.Lambda) -> ast.Lambda:
        return node

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = ast.Constant("object")
        return node


def redocument(file: Path) -> None:
    """Change a file's comments, docstrings, types of arguments, layout and order of imports."""
    tree = Redocumented().visit(ast.parse(file.read_text(encoding="utf-8")))
    first = [s for s in tree.body if isinstance(s, ast.ImportFrom) and s.module == "__future__"]
    imports = [
        s for s in tree.body if isinstance(s, ast.Import | ast.ImportFrom) and s not in first
    ]
    tree.body = [*first, *reversed(imports), *(s for s in tree.body if s not in first + imports)]
    text = ast.unparse(ast.fix_missing_locations(tree))
    file.write_text(f"# a comment\n{text}", encoding="utf-8")
