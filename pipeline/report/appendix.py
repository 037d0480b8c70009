"""The report's further tables: ablations, certificates, two adapters, free texts, examples."""

import math
from typing import Any

import polars as pl

from pipeline.metrics.coherence import compared_coherence
from pipeline.metrics.scores import renaming
from pipeline.report import columns
from pipeline.report.columns import Cell, Columns, Row, build, digits, method, show, twice
from pipeline.report.figures.words import short_labels
from pipeline.report.results import Results
from pipeline.support.formats import NONE, coefficient

OTHER_BASIS = ("lora", "dora")


def error(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def change(effect: str, whole: str) -> Cell:
    """Return a cell with a variant's change against its whole method, in per cent."""

    def cell(row: Row) -> str:
        if row["method"] == row["whole"] or row[whole] == 0:
            return NONE
        return f"{100 * (row[effect] - row[whole]) / abs(row[whole]):+.0f} %"

    return cell


def together(cell: Cell) -> Cell:
    """Return a cell that is empty where only one of two adapters is on."""
    return lambda row: cell(row) if row["first"] and row["second"] else NONE


ABLATION: Columns = {
    "Effect": show("target_effect"),
    "SD over seeds": show("seed_sd"),
    "Change": change("target_effect", "target_effect_whole"),
}
CERTIFICATES: Columns = {
    "Adapter": lambda row: f"{method(row)}, seed {row['seed']}",
    "|logits(0) − base|": show("zero", error),
    "after detaching": show("restored", error),
    "after reloading": show("reload", error),
    "|R(−c) − R(c)ᵀ|": show("inverse", error),
    "|RᵀR − I|": show("orthogonal", error),
    "Largest angle (°)": show("angle", lambda angle: f"{math.degrees(angle):.1f}"),
    "t of the sign": show("t", "{:.1f}".format),
    "t at +c": show("up_t", "{:.1f}".format),
    "t at −c": show("down_t", "{:.1f}".format),
    "Sign": lambda row: "decided" if row["decided"] else "undecided",
}
COMPOSITION: Columns = {
    "Effect": show("effect"),
    "95 % interval": columns.interval("effect_low", "effect_high"),
    "Interaction": together(show("interaction")),
    "95 % interval (interaction)": together(
        columns.interval("interaction_low", "interaction_high")
    ),
}
COHERENCE: Columns = {
    "Method": method,
    "c": show("coefficient", coefficient),
    "NLL of the base": show("base_nll"),
    "Δ": show("delta_base_nll"),
    "Repeated 3-grams": show("repetition"),
    "Distinct 1-grams": show("distinct_1"),
    "Distinct 2-grams": show("distinct_2"),
    "Ended": show("ended", digits(2)),
    "Tokens": show("n_tokens", digits(1)),
}
EXAMPLES: Columns = {
    "Method": method,
    "Kind": show("kind", str),
    "Dilemma": show("dilemma_id", str),
    "c": show("coefficient", coefficient),
    "Yes (to do)": show("to_do"),
    "Yes (not to do)": show("not_to_do"),
}
WHOLE = renaming(target_effect="target_effect_whole")


def whole_methods(methods: list[str], sections: dict[str, Any]) -> dict[str, str]:
    """Return, for each learned id, the whole method that it is an ablation of, or itself.

    A variant belongs to the method that it names. LoRA and DoRA, which leave out the SVD basis,
    belong to the one with their loss.
    """
    in_svd_basis = [m for m in methods if sections[m].method not in OTHER_BASIS]
    whole = [method for method in in_svd_basis if sections[method].method == method]

    def root(method: str) -> str:
        section = sections[method]
        if method in in_svd_basis:
            return section.method
        return next((m for m in whole if sections[m].loss.of == section.loss.of), "")

    return {method: root(method) for method in methods if root(method) in whole}


def ablation(results: Results) -> pl.DataFrame:
    """Every variant beside the whole method, at equal cost; none where none was run."""
    roots = whole_methods(results.params.methods, results.params.steering)
    varied = {root for method, root in roots.items() if method != root}
    pairs = [(method, root) for method, root in roots.items() if root in varied]
    pairs.sort(key=lambda pair: (pair[1], pair[0] != pair[1]))
    frame = pl.DataFrame(pairs, {"method": pl.String, "whole": pl.String}, orient="row")
    both = results.tables["equal_cost"]
    of_whole = both.select(pl.col("method").alias("whole"), *WHOLE).rename(WHOLE)
    rows = frame.join(both, on="method", maintain_order="left")
    rows = rows.join(of_whole, on="whole", maintain_order="left")
    about = {"Method": columns.marked_method, "Δ NLL": show("delta_nll")}
    effects = twice(ABLATION, results.log_odds_first)
    return build(rows, about | effects | {"KL at +c / −c": columns.cost})


def certificates(results: Results) -> pl.DataFrame:
    """What was measured on each trained adapter, and how sure its sign is."""
    rows = [
        {"method": method, "seed": seed, **results.adapters[method, seed]["sign"], **row}
        for (method, seed), row in results.certificates.items()
    ]
    return build(rows, CERTIFICATES)


def composition(results: Results) -> pl.DataFrame:
    """Two adapters alone and together: effects on each one's target, and what does not add up."""
    rows = results.tables["composition"]
    words = short_labels(rows["target"].unique().to_list())
    behaviours = zip(results.params.composition.behaviours, ("first", "second"), strict=False)
    dials = {f"c of {behaviour}": show(name, coefficient) for behaviour, name in behaviours}
    effects = twice(COMPOSITION, results.log_odds_first)
    return build(rows, {"Effect on": show("target", words.__getitem__)} | dials | effects)


def coherence(results: Results) -> pl.DataFrame:
    """The free texts of the base and of every method, at ±1 (or nearest)."""
    return build(compared_coherence(results.tables["coherence"]), COHERENCE)


def examples(results: Results) -> pl.DataFrame:
    """The single dilemmas of the page, by coefficient."""
    rows = [
        vars(example) | row for example in results.examples for row in example.answers.to_dicts()
    ]
    target = twice({"Target choice": show("target")}, results.log_odds_first)
    return build(rows, EXAMPLES | target)
