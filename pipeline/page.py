"""The report's page: which tables and figures stand where, with what note and from which file."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
from markupsafe import Markup

from pipeline.params import read_yaml
from pipeline.rendering import as_html
from pipeline.tables import interval, name_of, number

TEMPLATE = Path(__file__).with_name("report.html.jinja")
ACTIONS = {"to_do": "the first side", "not_to_do": "the other side"}


@dataclass(frozen=True)
class Entry:
    """A table or a figure of the page; `note` is a Jinja text with the page's own variables."""

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
    note: Markup
    table: Markup = field(default_factory=Markup)
    columns: int = 0
    svg: str = ""
    """A figure in base64."""

    @property
    def id(self) -> str:
        return f"{'figure' if self.svg else 'table'}-{self.entry.name}"

    @property
    def files(self) -> list[str]:
        """The entry itself in other forms, beside the page."""
        folder, endings = ("figures", ("svg", "png")) if self.svg else ("tables", ("csv", "md", "tex"))
        return [f"{folder}/{self.entry.name}.{ending}" for ending in endings]


def arrange(tables: dict[str, pl.DataFrame], figures: dict[str, str], context: dict[str, Any]) -> dict[str, list[Shown]]:
    """Return group -> what stands in it, in the order of ENTRIES; a table that they do not name goes to the last group."""
    known = {entry.name for entry in ENTRIES}
    others = [Entry(name, "further", name.replace("_", " ").capitalize()) for name in tables if name not in known]
    found: dict[str, list[Shown]] = {group: [] for group in GROUPS}
    for entry in [*ENTRIES, *others]:
        if entry.name not in (figures if entry.alt else tables):
            continue
        shown = Shown(entry, Markup(environment().from_string(entry.note).render(context)))
        if entry.alt:
            shown.svg = figures[entry.name]
        else:
            shown.table, shown.columns = Markup(as_html(tables[entry.name])), tables[entry.name].width
        found[entry.group].append(shown)
    return {group: shown for group, shown in found.items() if shown}


def environment() -> jinja2.Environment:
    return jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def headline(equal: pl.DataFrame, learned: list[str]) -> list[str]:
    """Say in sentences what moves the target most at equal cost: trained, not trained, random, and prompting."""
    dosed = equal.filter("calibrated").sort("target_effect", descending=True)
    is_learned, is_random = pl.col("method").is_in(learned), pl.col("method") == "random"
    kinds = {
        "Of the trained methods": dosed.filter(is_learned),
        "Of those without training": dosed.filter(~is_learned & ~is_random),
        "As a control": dosed.filter(is_random),
        "Without a dose, at its own cost": equal.filter(~pl.col("calibrated")).sort("target_effect", descending=True),
    }
    said = []
    for kind, rows in kinds.items():
        if rows.height:
            row = rows.row(0, named=True)
            spread = f", standard deviation over {row['n_seeds']} seeds {number(row['seed_sd'])}" if row["n_seeds"] > 1 else ""
            said.append(
                f"{kind}: {name_of(row['method'])}, {row['target_effect']:+.3f} {interval(row)}{spread} "
                f"(at +c {row['up']:+.3f}, at −c {row['down']:+.3f}; Δ NLL {row['delta_nll']:+.3f})."
            )
    return said


def setup(params: dict[str, Any], arms: pl.DataFrame, items: pl.DataFrame) -> dict[str, str]:
    """Return what was done, name -> words."""
    seeds = ", ".join(map(str, params["seeds"]))
    doses = ", ".join(f"±{c:g}" for c in sorted(arms["coefficient"].unique()))
    dilemmas = f"{items['dilemma_id'].n_unique()} of {params['evalset']}"
    measure = "KL divergence from the base" if params["dose"].measure == "kl" else "rise of the NLL"
    cost = f"{params['dose'].budget:g} nats per token ({measure})"
    return {
        "Model": params["model"],
        "Behaviour": params["behaviour"],
        "Dilemmas": f"{dilemmas} ({arms['n_dilemmas'][0]} on the target), each asked from both sides",
        "Trained methods": ", ".join(map(name_of, params["methods"])) + f"; seeds {seeds}" if params["methods"] else "none",
        "Without training": ", ".join(map(name_of, params["baselines"])) or "none",
        "Coefficients": f"{doses}, and the dose that costs {cost} on calibration texts",
        "Signs, doses, checkpoints": "from contrast pairs alone; no dilemma is used for any choice",
    }


def render(tables: dict[str, pl.DataFrame], figures: dict[str, str], context: dict[str, Any]) -> str:
    """Return the page; `figures` maps a name to an SVG in base64, `context` holds the template's further variables."""
    groups = arrange(tables, figures, context)
    return environment().from_string(TEMPLATE.read_text()).render(groups=groups, titles=GROUPS, **context)
