"""DailyDilemmas (arXiv 2410.02683, CC BY 4.0): moral dilemmas of everyday life.

Two schemas are read, the authors' CSV and the hub's three tables; both label the same rows alike.
As in the source, only values of the agent count, the party "You". Values outside the authors'
vocabulary, which have no place in a framework, are left out.
"""

from pathlib import Path
from typing import Any

import polars as pl

from pipeline.evalsets import rows, tables
from pipeline.evalsets.rows import SIDES, item, normalise
from pipeline.support.sections import DailyDilemmasParams

AGENT = "You"
Labels = dict[str, str | None]
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


def build_items(section: DailyDilemmasParams, _behaviour: str) -> pl.DataFrame:
    """Return the items; the behaviour decides nothing here, the effects read its target."""
    folder, _ = tables.locate(section, "daily_dilemmas")
    found = tables.read_tables(folder, "daily_dilemmas")
    authors = tables.pick(found, AUTHORS)
    half = any("values_names" in table.columns for table in found)
    if half and authors is None:
        authors = tables.required(found, AUTHORS, section.source)
    items = from_hub(found, section.source) if authors is None else from_authors(authors)
    return rows.table(items, section.max_dilemmas)


def origin(section: DailyDilemmasParams) -> dict[str, Any]:
    """Return where the set was read, for the record beside the items."""
    return tables.origin(section, "daily_dilemmas")


def split_values(value: str) -> list[str]:
    """Return the values of one cell, which sometimes holds several with commas."""
    return [name for part in value.split(",") if (name := normalise(part))]


def same_length(row: dict[str, Any], column: str, other: str, missing: bool = False) -> list[Any]:
    found = tables.strings(row, column, missing)
    if len(found) != len(tables.strings(row, other)):
        tables.refuse(row, column, f"must have as many entries as {other!r}: correct one of them")
    return found


def is_agent(row: dict[str, Any], column: str, party: str) -> bool:
    """Return whether a party is the agent; refuse another spelling, which would lose its values."""
    if party != AGENT and normalise(party) == AGENT.lower():
        tables.refuse(row, column, f"must write the agent as {AGENT}: correct it")
    return party == AGENT


def put(
    row: dict[str, Any], column: str, place: Labels, name: str, label: str | None, spelled: Labels
) -> None:
    """Give a value its label in a framework; refuse a second one, and a label in two spellings."""
    known = spelled.setdefault(normalise(label or ""), label)
    if known != label:
        tables.refuse(row, column, f"spells {known!r} in another way: write it alike")
    if place.setdefault(name, label) != label:
        tables.refuse(row, column, f"gives {name!r} a second label: correct one of them")


def own_values(row: dict[str, Any]) -> list[str]:
    """Return the agent's own values under a CSV row's action, direct ones first."""
    held: dict[str, None] = {}
    for kind in KINDS:
        parties = tables.strings(row, f"parties_{kind}")
        values = same_length(row, f"values_{kind}", f"parties_{kind}")
        for party, value in zip(parties, values, strict=True):
            if is_agent(row, f"parties_{kind}", party):
                held |= dict.fromkeys(split_values(value))
    return list(held)


def from_authors(table: pl.DataFrame) -> list[dict]:
    """Return the items of the authors' CSV, whose values_names are those of the vocabulary."""
    items = []
    spelled: dict[str, Labels] = {framework: {} for framework in FRAMEWORKS.values()}
    for row in table.iter_rows(named=True):
        listed = [normalise(name) for name in tables.strings(row, "values_names")]
        places: dict[str, Labels] = {framework: {} for framework in FRAMEWORKS.values()}
        for column, framework in FRAMEWORKS.items():
            found = same_length(row, column, "values_names", missing=True)
            for name, label in zip(listed, found, strict=True):
                put(row, column, places[framework], name, label, spelled[framework])
        names = [name for name in own_values(row) if name in listed]
        items.append(item(row, "idx", names, carried(names, places)))
    return items


def from_hub(found: list[pl.DataFrame], source: str) -> list[dict]:
    """Return the items of the hub's tables; a table of parties may repeat situation and action."""
    dilemmas = tables.required(found, HUB_ROWS, source, ("party",), (AUTHORS,))
    parties = tables.required(found, HUB_PARTIES, source, (), (AUTHORS,))
    values = tables.required(found, HUB_VALUES, source, ("party",), (AUTHORS,))
    spelled: dict[str, Labels] = {framework: {} for framework in FRAMEWORKS.values()}
    places: dict[str, Labels] = {framework: {} for framework in FRAMEWORKS.values()}
    for row in values.iter_rows(named=True):
        name = normalise(tables.text(row, "value"))
        for framework in places:
            label = row[framework] or None
            if label and tables.is_nothing(label):
                tables.refuse(row, framework, "must be a label or nothing at all: correct it")
            put(row, framework, places[framework], name, label, spelled[framework])
    known = places["WVS"].keys()
    held: dict[tuple[str, str], dict[str, None]] = {}
    told: set[str] = set()
    for row in parties.iter_rows(named=True):
        key = tables.text(row, "dilemma_idx"), tables.one_of(row, "action_type", SIDES)
        told.add(key[0])
        if is_agent(row, "party", tables.text(row, "party")):
            held.setdefault(key, {}).update(dict.fromkeys(split_values(tables.text(row, "value"))))
    items = []
    for row in dilemmas.iter_rows(named=True):
        about = tables.text(row, "dilemma_idx")
        if about not in told:
            tables.refuse(row, "dilemma_idx", "which no row of the parties has: correct it there")
        own = held.get((about, row["action_type"]), {})
        names = [name for name in own if name in known]
        items.append(item(row, "dilemma_idx", names, carried(names, places)))
    return items


def carried(names: list[str], places: dict[str, Labels]) -> list[str]:
    """Return framework/value names: each value itself, then its place in each framework."""
    found = [f"Value/{name}" for name in names]
    for framework, place in places.items():
        found += [f"{framework}/{p}" for p in dict.fromkeys(place[name] for name in names) if p]
    return found


def read_folder(folder: Path, columns: list[str]) -> pl.DataFrame:
    """Return the rows of a folder's CSV files in the authors' schema, with further columns."""
    found = tables.read_tables(folder, folder.name)
    return tables.required(found, [*AUTHORS, *columns], str(folder))
