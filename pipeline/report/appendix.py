"""The report's further tables: ablations, certificates, two adapters at once, free texts."""

import math
from typing import Any

import polars as pl

from pipeline.report.examples import Example
from pipeline.report.figures.words import (
    NONE,
    bracket,
    coefficient,
    name_of,
    nearest_to_one,
    number,
    title,
)
from pipeline.report.tables import short_labels
from pipeline.study.sections import LearnedParams, LoraParams
from pipeline.support.schemas import RAW


def whole_methods(methods: list[str], sections: dict[str, Any]) -> dict[str, str]:
    """Return, for each learned id, the whole method that it is an ablation of (itself where it is
    one).

    A variant belongs to the method that it names; LoRA and DoRA, which leave the SVD basis out, to
    the one with their loss.
    """
    whole = [
        m for m in methods if sections[m].method == m and not isinstance(sections[m], LoraParams)
    ]

    def of(section: LearnedParams) -> str | None:
        if not isinstance(section, LoraParams):
            return section.method if section.method in whole else None
        return next((m for m in whole if type(sections[m].loss) is type(section.loss)), None)

    found = {method: of(sections[method]) for method in methods}
    return {method: root for method, root in found.items() if root}


def ablated(methods: list[str], sections: dict[str, Any]) -> dict[str, str]:
    """Return `whole_methods` of those alone that have a variant among the methods; empty where none
    has.
    """
    whole = whole_methods(methods, sections)
    with_variants = {root for method, root in whole.items() if method != root}
    return {method: root for method, root in whole.items() if root in with_variants}


def ablation_table(arms: pl.DataFrame, equal: pl.DataFrame, whole: dict[str, str]) -> pl.DataFrame:
    """Every variant beside the whole method (`whole`: id -> id), at ±1 and at equal cost, with the
    change in per cent.
    """
    one = {
        row["method"]: row
        for row in arms.filter(pl.col("coefficient") == nearest_to_one(arms)).to_dicts()
    }
    same = {row["method"]: row for row in equal.to_dicts()}

    def change(rows: dict[str, Any], method: str) -> str:
        full, own = rows[whole[method]]["target_effect"], rows[method]["target_effect"]
        return (
            "–"
            if method == whole[method] or full == 0
            else f"{100 * (own - full) / abs(full):+.0f} %"
        )

    return pl.DataFrame([
        {
            "Method": title(one[method]),
            "Effect at ±1": number(one[method]["target_effect"]),
            "SD over seeds": number(one[method]["seed_sd"]),
            "Change": change(one, method),
            "Δ NLL": number(one[method]["delta_nll"]),
            "Effect at equal cost": number(same[method]["target_effect"]),
            "SD over seeds (equal cost)": number(same[method]["seed_sd"]),
            "Change (equal cost)": change(same, method),
            "c": f"{same[method]['used']:.2f}",
        }
        for method in sorted(whole, key=lambda m: (whole[m], m != whole[m]))
    ])  # fmt: skip


def certificates_table(
    found: dict[tuple[str, int], dict[str, Any]], sign_t: dict[tuple[str, int], float]
) -> pl.DataFrame:
    """What was measured on each trained adapter, by method and seed, and how sure its sign is;
    angle in degrees.
    """

    def cell(value: float | None) -> str:
        return "–" if value is None else "0" if value == 0 else f"{value:.1e}"

    return pl.DataFrame([
        {
            "Adapter": f"{name_of(method)}, seed {seed}",
            "|logits(0) − base|": cell(row["zero"]),
            "after detaching": cell(row["restored"]),
            "after reloading": cell(row["reload"]),
            "|R(−c) − R(c)ᵀ|": cell(row["inverse"]),
            "|RᵀR − I|": cell(row["orthogonal"]),
            "Largest angle (°)": "–" if row["angle"] is None else f"{math.degrees(row['angle']):.1f}",
            "|t| of the sign": f"{abs(sign_t[method, seed]):.1f}",
        }
        for (method, seed), row in found.items()
    ])  # fmt: skip


def composition_table(rows: pl.DataFrame, behaviours: list[str]) -> pl.DataFrame:
    """Two adapters alone and together: the effect on each behaviour's own target, and what does not
    add up.
    """
    words = short_labels(rows["target"].unique().to_list())

    def together(row: dict[str, Any], text: str) -> str:
        return text if row["first"] and row["second"] else NONE

    return pl.DataFrame([
        {
            "Effect on": words[row["target"]],
            f"c of {behaviours[0]}": coefficient(row["first"]),
            f"c of {behaviours[1]}": coefficient(row["second"]),
            "Effect": number(row["effect"]),
            "95 % interval": bracket(row["effect_low"], row["effect_high"]),
            "Interaction": together(row, number(row["interaction"])),
            "95 % interval (interaction)": together(row, bracket(row["interaction_low"], row["interaction_high"])),
        }
        for row in rows.to_dicts()
    ])  # fmt: skip


def coherence_table(rows: pl.DataFrame) -> pl.DataFrame:
    """The free texts of the base and of every method, at the coefficients nearest to ±1 and at
    equal cost; means over seeds.
    """
    if rows.is_empty():
        return pl.DataFrame()
    unit = nearest_to_one(rows.filter((pl.col("dose") == RAW) & (pl.col("coefficient") != 0)))
    wanted = (pl.col("dose") != RAW) | pl.col("coefficient").abs().is_in([0.0, unit])
    sign = pl.col("coefficient").sign().alias("sign")
    keys, figures = (
        ["method", "dose", "sign"],
        [c for c in rows.columns if c not in ("method", "seed", "dose")],
    )
    folded = (
        rows.filter(wanted)
        .with_columns(sign)
        .group_by(keys, maintain_order=True)
        .agg(pl.col(figures).cast(pl.Float64).mean())
    )
    methods = list(dict.fromkeys(folded["method"]))
    ordered = sorted(
        folded.to_dicts(),
        key=lambda row: (methods.index(row["method"]), row["dose"] != RAW, row["coefficient"]),
    )
    return pl.DataFrame([
        {
            "Method": name_of(row["method"]),
            "c": (f"{row['coefficient']:+.2g}" if row["sign"] else "0") + ("" if row["dose"] == RAW else " (equal cost)"),
            "NLL of the base": number(row["base_nll"]),
            "Δ": number(row["delta_base_nll"]),
            "Repeated 3-grams": number(row["repetition"]),
            "Distinct 1-grams": number(row["distinct_1"]),
            "Distinct 2-grams": number(row["distinct_2"]),
            "Ended": number(row["ended"], 2),
            "Tokens": number(row["n_tokens"], 1),
        }
        for row in ordered
    ])  # fmt: skip


def seeds_equal_cost_table(seeds: pl.DataFrame) -> pl.DataFrame:
    """The effect of every seed alone at its own equal-cost dose; methods with one seed are left
    out.
    """
    several = seeds.filter(pl.len().over("method") > 1)
    return pl.DataFrame([
        {
            "Method": name_of(row["method"]),
            "Seed": str(row["seed"]),
            "±c": f"{row['coefficient']:.2f}",
            "Effect": number(row["effect"]),
        }
        for row in several.to_dicts()
    ])  # fmt: skip


def examples_table(found: list[Example]) -> pl.DataFrame:
    """The single dilemmas of the page, by coefficient: probability of Yes to each action and of the
    target choice.
    """
    return pl.DataFrame([
        {
            "Method": name_of(example.method),
            "Kind": example.kind,
            "Dilemma": example.dilemma_id,
            "c": coefficient(row["coefficient"]),
            "Yes (to do)": number(row["to_do"]),
            "Yes (not to do)": number(row["not_to_do"]),
            "Target choice": number(row["target"]),
        }
        for example in found
        for row in example.answers.to_dicts()
    ])  # fmt: skip
