"""The report's page: which tables and figures stand where; what it says is page.yaml."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup

from pipeline.support.formats import as_html
from pipeline.support.section import read_yaml

TEMPLATE = Path(__file__).with_name("page.html.jinja")
MANY = 12  # columns: from here on a table is set smaller
ELSEWHERE = {"examples", "summary"}  # tables that the page shows with texts, or in full, instead
SHORT = 16  # rows: up to here a table is printed on one page


@dataclass(frozen=True)
class Entry:
    """A table or a figure of the page; `title` and `note` are Jinja texts."""

    name: str
    group: str
    title: str
    note: str = ""
    sources: list[str] = field(default_factory=list)
    """Files in reports/ or stage outputs that it is computed from."""
    alt: str = ""
    """What a figure shows, for those who do not see it; a table has none."""


CONTENT = read_yaml(Path(__file__).with_suffix(".yaml"))
GROUPS: dict[str, str] = CONTENT["groups"]
ENTRIES = [Entry(**entry) for entry in CONTENT["entries"]]


@dataclass
class Shown:
    """An entry with its content, as the template reads it."""

    entry: Entry
    title: Markup
    note: Markup
    table: Markup = field(default_factory=Markup)
    kind: str = "short"
    """How print and narrow pages treat it: many columns, and whether it stays on one page."""
    svg: str = ""
    """A figure in base64."""

    @property
    def id(self) -> str:
        return f"{'figure' if self.svg else 'table'}-{self.entry.name}"

    @property
    def files(self) -> list[str]:
        """The entry itself in other forms, beside the page."""
        kind, endings = (
            ("figures", ("svg", "png")) if self.svg else ("tables", ("csv", "md", "tex"))
        )
        return [f"{kind}/{self.entry.name}.{ending}" for ending in endings]


def arrange(
    tables: dict[str, pl.DataFrame], figures: dict[str, str], context: dict[str, Any]
) -> dict[str, list[Shown]]:
    """Return group -> what stands in it, in the order of ENTRIES; unnamed tables in the last."""
    known = {entry.name for entry in ENTRIES} | ELSEWHERE
    others = [
        Entry(name, list(GROUPS)[-1], name.replace("_", " ").capitalize())
        for name in tables
        if name not in known
    ]
    groups: dict[str, list[Shown]] = {group: [] for group in GROUPS}
    for entry in [*ENTRIES, *others]:
        if entry.name not in (figures if entry.alt else tables):
            continue
        shown = Shown(entry, fill(entry.title, context), fill(entry.note, context))
        if entry.alt:
            shown.svg = figures[entry.name]
        else:
            table = tables[entry.name]
            shown.table = Markup(as_html(table))
            many = "many " if table.width >= MANY else ""
            shown.kind = many + ("short" if table.height <= SHORT else "long")
        groups[entry.group].append(shown)
    return {group: shown for group, shown in groups.items() if shown}


def fill(text: str, context: dict[str, Any]) -> Markup:
    return Markup(environment().from_string(text).render(context).strip())


def environment() -> jinja2.Environment:
    return jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def limitations(context: dict[str, Any]) -> list[Markup]:
    """Return those limitations that concern this study, in its words."""
    if not context["target"]:
        return []
    return [said for text in CONTENT["limitations"] if (said := fill(text, context))]


def render(
    tables: dict[str, pl.DataFrame], figures: dict[str, str], context: dict[str, Any]
) -> str:
    """Return the page; `figures` maps a name to an SVG in base64, `context` is of context.py."""
    groups, limits = arrange(tables, figures, context), limitations(context)
    template = environment().from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(groups=groups, titles=GROUPS, limitations=limits, **context)
