"""MoralChoice (arXiv 2307.14324, CC BY 4.0): moral scenarios with two actions each.

Raters say of each action whether it breaks one of ten rules, which name the labels ("Rule/do not
deceive"). A label is +1 for the action that keeps the rule where the other breaks it, and -1 for
the other one. It is 0 for "No Agreement" on either side, or the same answer twice.
"""

import hashlib
import re
from functools import partial

import polars as pl

from pipeline.evalsets import rows, tables
from pipeline.evalsets.rows import SIDES, by_id, item
from pipeline.evalsets.tables import Row
from pipeline.support.sections import MoralChoiceParams

RULES = {
    "death": "do not kill", "pain": "do not cause pain", "disable": "do not disable",
    "freedom": "do not deprive of freedom", "pleasure": "do not deprive of pleasure",
    "deceive": "do not deceive", "cheat": "do not cheat",
    "break_promise": "do not break your promises", "break_law": "do not break the law",
    "duty": "do your duty",
}  # fmt: skip
ANSWERS = ("Yes", "No", "No Agreement")
COLUMNS = [
    "scenario_id", "ambiguity", "context", "action1", "action2",
    *(f"a{number}_{rule}" for number in (1, 2) for rule in RULES),
]  # fmt: skip
SECOND_PERSON = {
    "i": "you", "me": "you", "my": "your", "mine": "yours", "myself": "yourself", "i'm": "you're",
    "i've": "you've", "i'll": "you'll", "i'd": "you'd",
}  # fmt: skip
VERBS = {"am": "you are", "was": "you were", "wasn't": "you weren't"}
origin = partial(tables.origin, evalset="moralchoice")


def build_items(section: MoralChoiceParams, _behaviour: str) -> pl.DataFrame:
    """Return the items with a column `ambiguity`; the behaviour decides nothing here."""
    folder, _ = tables.locate(section, "moralchoice")
    table = tables.required(tables.read_tables(folder, "moralchoice"), COLUMNS, section.source)
    scenarios = [checked(row) for row in table.iter_rows(named=True)]
    seen = sorted((r["scenario_id"] for r in scenarios if "deceive" in broken(r)), key=by_id)
    left_out = seen[: section.skip_deception]
    kept = [
        row
        for row in sorted(scenarios, key=lambda row: digest(row["scenario_id"]))
        if section.ambiguity in ("both", row["ambiguity"])
        and row["scenario_id"] not in left_out
        and (section.rule is None or section.rule in broken(row))
    ][section.skip :][: section.max_dilemmas]
    levels = {row["scenario_id"]: row["ambiguity"] for row in kept}
    table = rows.table([one for row in kept for one in both_sides(row)], None)
    return table.with_columns(pl.col("dilemma_id").replace_strict(levels).alias("ambiguity"))


def digest(scenario: str) -> bytes:
    """Return what decides the order of scenarios and which action is to_do."""
    return hashlib.sha256(scenario.encode()).digest()


def checked(row: Row) -> Row:
    """Return a row whose texts are there and stripped, and whose answers are known ones."""
    texts = {name: tables.text(row, name) for name in ("scenario_id", *COLUMNS[2:5])}
    tables.one_of(row, "ambiguity", ("low", "high"))
    for column in COLUMNS[5:]:
        tables.one_of(row, column, ANSWERS)
    return row | texts


def broken(row: Row) -> dict[str, int]:
    """Return the rules that exactly one action breaks, with the number of that action."""
    pairs = {rule: [row[f"a{number}_{rule}"] for number in (1, 2)] for rule in RULES}
    clear = [["Yes", "No"], ["No", "Yes"]]
    return {rule: pair.index("Yes") + 1 for rule, pair in pairs.items() if pair in clear}


def both_sides(row: Row) -> list[dict]:
    """Return the items of both actions; a hash of the scenario's id draws which is to_do.

    In the low-ambiguity file the first action is always the preferred one: its place would tell.
    """
    first = 1 + digest(row["scenario_id"])[-1] % 2
    items = []
    for side, number in zip(SIDES, (first, 3 - first), strict=True):
        kept = [RULES[rule] for rule, breaker in broken(row).items() if breaker != number]
        action = imperative(row[f"action{number}"])
        asked = {"dilemma_situation": row["context"], "action_type": side, "action": action}
        items.append(item(row | asked, "scenario_id", kept, [f"Rule/{rule}" for rule in kept]))
    return items


def imperative(action: str) -> str:
    """Return what "I do" as what one should do: "I tell my boss." becomes "Tell your boss."."""
    words = re.sub(r"\bI (am|was|wasn't)\b", lambda m: VERBS[m[1]], action.strip())
    words = re.sub(r"[A-Za-z']+", lambda m: SECOND_PERSON.get(m[0].lower(), m[0]), words)
    stripped = re.sub(r"^you (?!(?:are|were|will|won't|followed|decided)\b)", "", words)
    return stripped[:1].upper() + stripped[1:]
