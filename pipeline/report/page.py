"""The report's page: which tables and figures stand where; what it says is page.yaml."""

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
CONTENT = read_yaml(Path(__file__).with_suffix(".yaml"))
GROUPS: dict[str, str] = CONTENT["groups"]
Entry = dict[str, Any]  # of the page; `title` and `note` are Jinja texts, figures have an `alt`
PLAIN: Entry = {"note": "", "sources": [], "alt": "", "kind": "short"}
ENTRIES: list[Entry] = [PLAIN | entry for entry in CONTENT["entries"]]


def arrange(
    tables: dict[str, pl.DataFrame], figures: dict[str, str], context: dict[str, Any]
) -> dict[str, list[Entry]]:
    """Return group -> what stands in it, in the order of ENTRIES; unnamed tables in the last.

    Each is its entry with texts filled in, and `table` (HTML) or `svg` (base64). `kind` says how
    print and narrow pages treat it: many columns, and whether it stays on one page.
    """
    known, last = {entry["name"] for entry in ENTRIES} | ELSEWHERE, list(GROUPS)[-1]
    others = [
        PLAIN | {"name": name, "group": last, "title": name.replace("_", " ").capitalize()}
        for name in tables
        if name not in known
    ]
    groups: dict[str, list[Entry]] = {group: [] for group in GROUPS}
    for entry in [*ENTRIES, *others]:
        name = entry["name"]
        if name not in (figures if entry["alt"] else tables):
            continue
        shown = entry | {key: fill(entry[key], context) for key in ("title", "note")}
        if entry["alt"]:
            shown["svg"] = figures[name]
        else:
            shown["table"] = Markup(as_html(tables[name]))
            many = "many " if tables[name].width >= MANY else ""
            shown["kind"] = many + ("short" if tables[name].height <= SHORT else "long")
        groups[entry["group"]].append(shown)
    return {group: shown for group, shown in groups.items() if shown}


def fill(text: str, context: dict[str, Any]) -> Markup:
    return Markup(environment().from_string(text).render(context).strip())


def environment() -> jinja2.Environment:
    return jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def render(
    tables: dict[str, pl.DataFrame], figures: dict[str, str], context: dict[str, Any]
) -> str:
    """Return the page; `figures` maps a name to an SVG in base64, `context` is of context.py.

    It shows those limitations that concern this study, in its words.
    """
    said = (fill(text, context) for text in CONTENT["limitations"] if context["target"])
    template = environment().from_string(TEMPLATE.read_text(encoding="utf-8"))
    shown = {"groups": arrange(tables, figures, context), "titles": GROUPS}
    return template.render(limitations=list(filter(None, said)), **shown, **context)
