"""One module as syntax: its definitions, each with a hash of its tree and the names it mentions.

Docstrings, comments, import statements and the types of arguments do not count. An imported name
stands for what it was imported from, and a name of the project goes without its module.
"""

import ast
import hashlib
import symtable
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)
Function = ast.FunctionDef | ast.AsyncFunctionDef
SHOWN = {"label", "look", "source"}  # of a class: what only tables, figures and cards show


@dataclass(frozen=True)
class Definition:
    """What was read of one statement."""

    digest: str
    uses: frozenset[str]
    """The dotted names of the project that it mentions."""
    files: frozenset[Path]
    """The data beside its module that it reads."""


class Module:
    """A module's statements by the names that they define, and what others were imported as."""

    def __init__(self, name: str, file: Path, is_module: Callable[[str], bool]):
        self.name, self.file, self.is_module = name, file, is_module
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
        self.scopes = dict(scopes(symtable.symtable(text, str(file), "exec")))
        lines = text.splitlines()
        body = [s for s in tree.body if not lines[s.lineno - 1].startswith("if TYPE_CHECKING")]
        self.imported = imports(s for s in body if not isinstance(s, SCOPES))
        self.statements: dict[str, list[ast.stmt]] = defaultdict(list)
        self.read: dict[int, Definition] = {}
        classes = [s for s in body if isinstance(s, ast.ClassDef)]
        self.shown = [ast.unparse(s) for one in classes for s in one.body if is_shown(s)]
        for statement in body:
            for defined in names_of(statement):
                self.statements[defined].append(statement)

    def definitions(self, name: str) -> list[Definition]:
        """Return what a name stands for: one statement, or several where a constant is changed."""
        for statement in self.statements[name]:
            if id(statement) not in self.read:
                self.read[id(statement)] = Reader(self).definition(statement)
        return [self.read[id(statement)] for statement in self.statements[name]]


def is_shown(statement: ast.stmt) -> bool:
    """Return whether a statement of a class sets what only the report and the cards show."""
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id in SHOWN for target in targets)


def imports(nodes: Iterable[ast.AST]) -> dict[str, str]:
    """Return name -> dotted name of all that the import statements in `nodes` bind."""
    bound: dict[str, str] = {}
    for node in (inner for outer in nodes for inner in ast.walk(outer)):
        if isinstance(node, ast.ImportFrom):
            bound |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Import):
            whole = {a.asname: a.name for a in node.names if a.asname}
            bound |= whole | {a.name.split(".")[0]: a.name.split(".")[0] for a in node.names}
    return bound


def names_of(statement: ast.stmt) -> set[str]:
    """Return the names that a statement defines or changes; a bare call counts for all in it."""
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
        case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
            return set()
        case ast.Assign(targets=targets):
            parts: list[ast.AST] = list(targets)
        case ast.AnnAssign(target=target) | ast.AugAssign(target=target):
            parts = [target]
        case _:
            parts = [statement]
    return {n.id for part in parts for n in ast.walk(part) if isinstance(n, ast.Name)}


def scopes(table: symtable.SymbolTable) -> Iterator[tuple[tuple[str, int], set[str]]]:
    """Yield by name and line each scope's own variables, without what it imports."""
    own = {
        one.get_name() for one in table.get_symbols() if one.is_local() and not one.is_imported()
    }
    yield (table.get_name(), table.get_lineno()), own
    for child in table.get_children():
        yield from scopes(child)


class Reader(ast.NodeTransformer):
    """Strips one statement of what does not count, and collects the names that it mentions."""

    def __init__(self, module: Module):
        self.module = module
        self.imported = module.imported
        self.locals: list[set[str]] = []
        self.in_class = False
        self.uses: set[str] = set()
        self.files: set[Path] = set()

    def definition(self, statement: ast.stmt) -> Definition:
        self.imported = self.module.imported | imports([statement])
        digest = hashlib.sha256(ast.dump(self.visit(statement)).encode()).hexdigest()
        return Definition(digest, frozenset(self.uses), frozenset(self.files))

    def imported_as(self, name: str) -> str | None:
        """Return what a name was imported as, unless a variable hides it."""
        return None if any(name in own for own in self.locals) else self.imported.get(name)

    def module_at(self, node: ast.expr) -> str | None:
        """Return the project's module that an expression stands for."""
        match node:
            case ast.Name(id=name):
                dotted = self.imported_as(name)
            case ast.Attribute(value=value, attr=attr):
                dotted = f"{self.module_at(value)}.{attr}"
            case _:
                return None
        return dotted if dotted and self.module.is_module(dotted) else None

    def visit_Import(self, node: ast.AST) -> None:
        return None

    visit_ImportFrom = visit_Import

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        outer, self.in_class = self.in_class, True
        node.body = [each for each in node.body if not is_shown(each)]
        self.generic_visit(node)
        self.in_class = outer
        return node

    def visit_FunctionDef(self, node: Function) -> ast.AST:
        node.decorator_list = [self.visit(each) for each in node.decorator_list]
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
        node.args, node.returns = self.visit(node.args), None
        outer, self.in_class = self.in_class, False
        self.locals.append(self.module.scopes[node.name, node.lineno])
        visited = [self.visit(each) for each in node.body]
        node.body = [each for each in visited if each is not None]
        self.locals.pop()
        self.in_class = outer
        return node

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        """Keep the types of a class's fields, which dataclasses and pydantic read."""
        if self.in_class:
            return self.generic_visit(node)
        if node.value is None:
            return None
        return self.visit(ast.Assign(targets=[node.target], value=node.value))

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        if module := self.module_at(node.value):
            self.uses.add(f"{module}.{node.attr}")
            return ast.Name(id=node.attr, ctx=node.ctx)
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.AST:
        if any(node.id in own for own in self.locals):
            return node
        if target := self.imported.get(node.id):
            ours = target.partition(".")[0] == self.module.name.partition(".")[0]
            if ours:
                self.uses.add(target)
            return ast.Name(id=target.rpartition(".")[2] if ours else target, ctx=node.ctx)
        if node.id in self.module.statements:
            self.uses.add(f"{self.module.name}.{node.id}")
        if node.id == "__file__":
            raise ValueError(
                f"{self.module.file} reads a file beside it in a way that study/syntax.py does not "
                'know: write Path(__file__).with_name("...")'
            )
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        match node:
            case ast.Call(
                func=ast.Attribute(
                    value=ast.Call(func=ast.Name(id="Path"), args=[ast.Name(id="__file__")]),
                    attr="with_name" | "with_suffix" as how,
                ),
                args=[ast.Constant(value=str(name))],
            ):
                self.files.add(getattr(self.module.file, how)(name))
                return node
        return self.generic_visit(node)
