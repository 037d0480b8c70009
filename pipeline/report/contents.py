"""Every table and every figure of a report, by name."""

import base64
from pathlib import Path

import polars as pl

from pipeline.metrics import drawn
from pipeline.report import appendix, figures, statistics, tables, untargeted
from pipeline.report.columns import MISSED, UNDECIDED
from pipeline.report.figures.look import Sheet
from pipeline.report.figures.words import name_of
from pipeline.report.results import Results

TABLES = {
    "source": tables.source,
    "equal_cost": tables.equal_cost,
    "summary": tables.summary,
    "full": tables.full,
    "seeds": tables.seeds,
    "examples": appendix.examples,
    "values": tables.values,
    "certificates": appendix.certificates,
    "composition": appendix.composition,
    "coherence": appendix.coherence,
    "ablation": appendix.ablation,
    "differences": statistics.differences,
    "sensitivity": statistics.sensitivity,
    "nll_budget": statistics.nll_budget,
    "answers": statistics.answers,
    "flips": statistics.flips,
    "curves": statistics.curves,
}
# Of a study without a target: what it can show.
UNTARGETED = {
    "texts": untargeted.texts,
    "doses": untargeted.doses,
    **{name: TABLES[name] for name in ("certificates", "composition", "coherence", "values")},
}


def all_tables(results: Results) -> dict[str, pl.DataFrame]:
    """Return name -> table of strings, without those that have no rows."""
    shown = UNTARGETED if results.unmeasured else TABLES
    built = {name: table(results) for name, table in shown.items()}
    unknown = [name_of(method) for method in dict.fromkeys(m for m, _ in results.undecided)]
    return {name: marked(table, unknown) for name, table in built.items() if table.height}


def marked(table: pl.DataFrame, unknown: list[str]) -> pl.DataFrame:
    """Mark methods in the rows and columns of a table of strings, where a sign is undecided."""

    def mark(said: str) -> str:
        return said + UNDECIDED if said.removesuffix(MISSED).removesuffix(" †") in unknown else said

    rows = [pl.col("Method").map_elements(mark, pl.String)] if "Method" in table.columns else []
    return table.with_columns(rows).rename(mark)


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Draw every figure into a folder; return name -> SVG in base64."""
    if not results.unmeasured:
        draw_effects(results, folder)
    if results.histories:
        of_pairs = f"n = {results.n_pairs('train')} training and {results.n_pairs('calibration')}"
        said = f"{results.study}; {of_pairs} calibration pairs; {results.seeds}"
        figures.training_curves(Sheet(folder, said), results.histories)
    drawings = {file.stem: file.read_bytes() for file in sorted(folder.glob("*.svg"))}
    return {name: base64.b64encode(drawing).decode() for name, drawing in drawings.items()}


def draw_effects(results: Results, folder: Path) -> None:
    """Draw the figures of the effects."""
    read, unit, params = results.tables, results.unit, results.params.statistics
    effects, arms, equal = read["effects"], read["arms"], read["equal_cost"]
    random = f"; {results.n_random} random directions" if results.n_random else ""
    caption = f"{results.study}; n = {results.n_dilemmas} dilemmas; {results.seeds}{random}"
    sheet = Sheet(folder, caption, results.log_odds_first)
    figures.effect_vs_coherence(sheet, arms, equal, effects, params.nll_budget)
    figures.dose_response(sheet, effects, results.oracle)
    missed = "; ".join(map(name_of, results.unreached))
    said = f". Largest dose of the search instead, which does not reach the budget: {missed}"
    own = sheet._replace(caption=caption + said) if missed else sheet
    figures.forest(own, equal, results.seed_effects)
    halves = drawn.value_halves(read["values"], unit)
    order = drawn.most_moved(halves, results.target.label)
    figures.value_map(sheet, halves, order, unit)
    n, gate = results.items.height, params.min_choice_mass
    figures.choice_mass(sheet, effects, drawn.excluded_counts(effects, n), n, gate)
