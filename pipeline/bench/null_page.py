"""null-studies: simulated studies -> docs/null_studies*.csv and null_studies.md."""

from pathlib import Path

import polars as pl

from pipeline.bench import null_studies as null
from pipeline.support.files import write_text
from pipeline.support.formats import markdown

FOLDER = Path("docs")
POOLED_STUDIES = 2_000
TEXT = """# How often the tests err

Written by `python -m pipeline null-studies`; the figures with all digits are in null_studies*.csv.
Simulated studies, as described at the head of `pipeline/bench/null_studies.py`; nominal level
{alpha}, an effect that the best possible test, a weighted mean by the true variances, finds with
power 0.80. Brackets: 95 % interval of the simulation.

{null_studies}
The main test is of the item-weighted slope, because the effects are means over items. Where sizes
are equal, as in every evaluation set, it is the t test of the dilemmas' slopes. How far off the
pooled test is depends on how much items differ in level, which it takes for noise:

{null_studies_pooled}
## Over further seeds

The p of the tables speaks of the adapters that were trained, not of others that could be. Here
every study has {seeds} seeds whose true effects differ around a mean of zero. The table has their
SD in nats per unit of c, beside {slope} between dilemmas, and the rejections of that zero:

{null_studies_seeds}
Clustering both ways leaves {left} degrees of freedom with {seeds} seeds: it is near its level only
where seeds differ far more than the error by dilemma, and elsewhere too wide to find much. Its
small p is to be believed, its large p says little.
"""
# Of each table: header -> cell.
COLUMNS = {
    "null_studies": {
        "Test": "{test}",
        "Dilemmas": "{dilemmas}",
        "Studies": "{studies}",
        "False positives": "{type_one:.1%} [{low:.1%}, {high:.1%}]",
        "Power": "{power}",
    },
    "null_studies_pooled": {
        "SD of levels (nats)": "{level_sd}",
        "Dilemmas": "{dilemmas}",
        "Studies": "{studies}",
        "Pooled rejects": "{rejected:.1%}",
    },
    "null_studies_seeds": {
        "Test": "{test}",
        "Dilemmas": "{dilemmas}",
        "SD of seeds": "{seed_sd}",
        "Studies": "{studies}",
        "Rejections": "{rejected:.1%}",
    },
}


def cells(columns: dict[str, str], row: dict) -> dict[str, str]:
    power = row.get("power")
    shown = row | {"power": "–" if power is None else f"{power:.2f}"}
    return {name: cell.format(**shown).replace("%", " %") for name, cell in columns.items()}


def page(tables: dict[str, pl.DataFrame]) -> str:
    """Return the Markdown page of the three tables, by their file names."""
    shown = {
        name: markdown(pl.DataFrame([cells(columns, row) for row in tables[name].to_dicts()]))
        for name, columns in COLUMNS.items()
    }
    about = {"seeds": null.SEEDS, "slope": null.SLOPE_SD, "left": null.SEEDS - 1}
    return TEXT.format(alpha=f"{100 * null.ALPHA:g} %", **about, **shown)


def main() -> None:
    """Run the whole study and write its page and tables."""
    rates = {
        "null_studies": lambda g: null.error_rates(g, null.STUDIES, null.MIXED.get(g, 0)),
        "null_studies_pooled": lambda g: null.pooled_error_rates(g, POOLED_STUDIES),
        "null_studies_seeds": lambda g: null.seed_error_rates(g, null.STUDIES),
    }
    tables = {}
    for name, of_size in rates.items():
        rows = [row for size in null.SIZES for row in of_size(size)]
        table = tables[name] = pl.DataFrame(rows, infer_schema_length=None)
        write_text(FOLDER / f"{name}.csv", table.write_csv())
    write_text(FOLDER / "null_studies.md", page(tables))
