"""null-studies: simulated studies -> docs/null_studies*.csv and null_studies.md."""

from pathlib import Path

import jinja2
import polars as pl

from pipeline.bench import null_studies as null
from pipeline.support.files import write_text

FOLDER = Path("docs")
POOLED_STUDIES = 2_000
TEMPLATE = Path(__file__).with_name("null_studies.md.jinja")
TABLES = {
    "null_studies": lambda size: null.error_rates(size, null.STUDIES, null.MIXED.get(size, 0)),
    "null_studies_pooled": lambda size: null.pooled_error_rates(size, POOLED_STUDIES),
    "null_studies_seeds": lambda size: null.seed_error_rates(size, null.STUDIES),
}


def page(tables: dict[str, pl.DataFrame]) -> str:
    """Return the Markdown page of the three tables, by their file names."""
    template = jinja2.Template(
        TEMPLATE.read_text(encoding="utf-8"),
        trim_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    about = {"alpha": null.ALPHA, "seeds": null.SEEDS, "slope": null.SLOPE_SD}
    return template.render(about | {name: table.to_dicts() for name, table in tables.items()})


def main() -> None:
    """Run the whole study and write its page and tables."""
    tables = {}
    for name, of_size in TABLES.items():
        rows = [row for size in null.SIZES for row in of_size(size)]
        table = tables[name] = pl.DataFrame(rows, infer_schema_length=None)
        write_text(FOLDER / f"{name}.csv", table.write_csv())
    write_text(FOLDER / "null_studies.md", page(tables))
