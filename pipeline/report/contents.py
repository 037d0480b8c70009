"""Every table and every figure of a report, by name."""

import base64
from pathlib import Path

import polars as pl

from pipeline.report import appendix, figures, tables
from pipeline.report.figures.words import name_of
from pipeline.report.results import Results
from pipeline.report.statistics import statistics_tables


def all_tables(results: Results) -> dict[str, pl.DataFrame]:
    """Return name -> table of strings, without those that have no rows."""
    read, params = results.tables, results.params
    arms, equal = read["arms"], read["equal_cost"]
    found = {
        "source": tables.source_table(arms, equal, params.behaviour),
        "equal_cost": tables.equal_cost_table(equal),
        "full": tables.full_table(arms),
        "seeds": tables.seeds_table(read["effects"]),
        "seeds_equal_cost": appendix.seeds_equal_cost_table(results.seed_effects),
        "examples": appendix.examples_table(results.examples),
        "values": tables.values_table(read["values"], results.unit, results.target.label),
        "certificates": appendix.certificates_table(results.certificates, results.sign_t),
        "composition": appendix.composition_table(
            read["composition"], params.composition.behaviours
        ),
        "coherence": appendix.coherence_table(read["coherence"]),
        "ablation": appendix.ablation_table(
            arms, equal, appendix.ablated(params.methods, params.steering)
        ),
        **statistics_tables(read),
    }
    return {name: table for name, table in found.items() if table.height}


def draw(results: Results, folder: Path) -> dict[str, str]:
    """Draw every figure into a folder; return name -> SVG in base64."""
    read, unit, params = results.tables, results.unit, results.params.statistics
    effects, arms, equal = read["effects"], read["arms"], read["equal_cost"]
    random = f"; {results.n_random} random directions" if results.n_random else ""
    caption = f"{results.study}; n = {results.n_dilemmas} dilemmas; {results.seeds}{random}"
    figures.effect_vs_coherence(folder, effects, arms, equal, params.nll_budget, caption)
    figures.dose_response(folder, effects, results.oracle, caption)
    figures.forest(folder, equal, results.seed_effects, caption + unreached(results))
    figures.value_map(folder, read["values"], results.target.label, unit, caption)
    figures.choice_mass(folder, effects, params.min_choice_mass, results.items.height, caption)
    if results.histories:
        counts = dict(results.pairs["split"].value_counts().rows())
        n = (
            f"n = {counts.get('train', 0)} training and {counts.get('calibration', 0)} calibration "
            "pairs"
        )
        figures.training_curves(folder, results.histories, f"{results.study}; {n}; {results.seeds}")
    return {
        file.stem: base64.b64encode(file.read_bytes()).decode()
        for file in sorted(folder.glob("*.svg"))
    }


def unreached(results: Results) -> str:
    methods = "; ".join(map(name_of, results.unreached))
    return (
        f". Largest dose of the search instead, which does not reach the budget: {methods}"
        if methods
        else ""
    )
