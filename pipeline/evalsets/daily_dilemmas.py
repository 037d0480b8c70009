"""DailyDilemmas (arXiv 2410.02683, CC BY 4.0): moral dilemmas of everyday life.

Two schemas are read, the authors' CSV and the hub's three tables; both label the same rows alike.
As in the source, only values of the agent count, the party "You". Values outside the authors'
vocabulary, which have no place in a framework, are left out.
"""

from collections import defaultdict
from functools import partial
from typing import Any

import polars as pl

from pipeline.evalsets import rows, tables
from pipeline.evalsets.rows import SIDES, item, normalise
from pipeline.evalsets.tables import Row
from pipeline.support.sections import DailyDilemmasParams

AGENT = "You"
FRAMEWORKS = {
    "wvs": "WVS", "mft": "MFT", "virtue": "Virtue", "emotion": "Emotion", "maslow": "Maslow",
}  # fmt: skip
KINDS = ("direct", "indirect")
LISTS = [f"{name}_{kind}" for kind in KINDS for name in ("parties", "values")]
AUTHORS = [
    "idx", "dilemma_situation", "action_type", "action", *LISTS, "values_names", *FRAMEWORKS,
]  # fmt: skip
HUB_ROWS = ["dilemma_idx", "dilemma_situation", "action_type", "action"]
HUB_PARTIES = ["dilemma_idx", "action_type", "party", "value"]
HUB_VALUES = ["value", *FRAMEWORKS.values()]
Labels = dict[str, dict[str, str | None]]  # framework -> a value, or a spelling -> its label
origin = partial(tables.origin, evalset="daily_dilemmas")


def build_items(section: DailyDilemmasParams, _behaviour: str) -> pl.DataFrame:
    """Return the items; the behaviour decides nothing here, the effects read its target."""
    folder, _ = tables.locate(section, "daily_dilemmas")
    read = tables.read_tables(folder, "daily_dilemmas")
    authors = tables.pick(read, AUTHORS)
    if authors is None and any("values_names" in table.columns for table in read):
        authors = tables.required(read, AUTHORS, section.source)
    items = from_hub(read, section.source) if authors is None else from_authors(authors)
    return rows.table(items, section.max_dilemmas)


def new_labels() -> Labels:
    return {framework: {} for framework in FRAMEWORKS.values()}


def split_values(value: str) -> list[str]:
    """Return the values of one cell, which sometimes holds several with commas."""
    return [name for part in value.split(",") if (name := normalise(part))]


def beside(row: Row, other: str, column: str, missing: bool = False) -> list[tuple[str, Any]]:
    """Return the entries of two columns of lists, which must be as many, side by side."""
    first, second = tables.strings(row, other), tables.strings(row, column, missing)
    if len(second) != len(first):
        tables.refuse(row, column, f"must have as many entries as {other!r}: correct one of them")
    return list(zip(first, second, strict=True))


def is_agent(row: Row, column: str, party: str) -> bool:
    """Return whether a party is the agent; refuse another spelling, which would lose its values."""
    if party != AGENT and normalise(party) == AGENT.lower():
        tables.refuse(row, column, f"must write the agent as {AGENT}: correct it")
    return party == AGENT


def put(
    row: Row, column: str, places: Labels, name: str, label: str | None, spelled: Labels
) -> None:
    """Give a value its label in a framework; refuse a second one, and a label in two spellings."""
    framework = FRAMEWORKS.get(column, column)
    known = spelled[framework].setdefault(normalise(label or ""), label)
    if known != label:
        tables.refuse(row, column, f"spells {known!r} in another way: write it alike")
    if places[framework].setdefault(name, label) != label:
        tables.refuse(row, column, f"gives {name!r} a second label: correct one of them")


def own_values(row: Row) -> list[str]:
    """Return the agent's own values under a CSV row's action, direct ones first."""
    held: dict[str, None] = {}
    for kind in KINDS:
        parties = f"parties_{kind}"
        for party, value in beside(row, parties, f"values_{kind}"):
            if is_agent(row, parties, party):
                held |= dict.fromkeys(split_values(value))
    return list(held)


def from_authors(table: pl.DataFrame) -> list[dict]:
    """Return the items of the authors' CSV, whose values_names are those of the vocabulary."""
    items, spelled = [], new_labels()
    for row in table.iter_rows(named=True):
        places = new_labels()
        for column in FRAMEWORKS:
            for name, label in beside(row, "values_names", column, missing=True):
                put(row, column, places, normalise(name), label, spelled)
        names = [name for name in own_values(row) if name in places["WVS"]]
        items.append(item(row, "idx", names, carried(names, places)))
    return items


def from_hub(read: list[pl.DataFrame], source: str) -> list[dict]:
    """Return the items of the hub's tables; a table of parties may repeat situation and action."""
    dilemmas = tables.required(read, HUB_ROWS, source, ("party",), (AUTHORS,))
    parties = tables.required(read, HUB_PARTIES, source, (), (AUTHORS,))
    values = tables.required(read, HUB_VALUES, source, ("party",), (AUTHORS,))
    places, spelled = new_labels(), new_labels()
    for row in values.iter_rows(named=True):
        name = normalise(tables.text(row, "value"))
        for framework in FRAMEWORKS.values():
            label = row[framework] or None
            if label and tables.is_nothing(label):
                tables.refuse(row, framework, "must be a label or nothing at all: correct it")
            put(row, framework, places, name, label, spelled)
    held: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in parties.iter_rows(named=True):
        sides = held[tables.text(row, "dilemma_idx")]
        side = tables.one_of(row, "action_type", SIDES)
        if is_agent(row, "party", tables.text(row, "party")):
            sides[side] += split_values(tables.text(row, "value"))
    items = []
    for row in dilemmas.iter_rows(named=True):
        if (about := tables.text(row, "dilemma_idx")) not in held:
            tables.refuse(row, "dilemma_idx", "which no row of the parties has: correct it there")
        own = dict.fromkeys(held[about][row["action_type"]])
        names = [name for name in own if name in places["WVS"]]
        items.append(item(row, "dilemma_idx", names, carried(names, places)))
    return items


def carried(names: list[str], places: Labels) -> list[str]:
    """Return framework/value names: each value itself, then its place in each framework."""
    labels = [f"Value/{name}" for name in names]
    for framework, place in places.items():
        labels += [f"{framework}/{p}" for p in dict.fromkeys(place[name] for name in names) if p]
    return labels
