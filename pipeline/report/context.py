"""What the page says in sentences of this one study."""

import json
from typing import Any

import polars as pl

from pipeline.report.figures.rendering import with_minus
from pipeline.report.figures.words import interval, name_of, number
from pipeline.report.results import SURE, Cell, Results

ACTIONS = {"to_do": "the first side", "not_to_do": "the other side"}
EVEN = 0.25  # of the stronger arm: a weaker one than this is not called a movement the other way
MEASURES = {"kl": "KL divergence from the base model", "delta_nll": "rise of the NLL"}


def signed(value: float) -> str:
    return with_minus(number(value, sign="+"))


def said(kind: str, row: dict[str, Any]) -> str:
    spread = (
        f", standard deviation over {row['n_seeds']} seeds {number(row['seed_sd'])}"
        if row["n_seeds"] > 1
        else ""
    )
    return (
        f"{kind}: {name_of(row['method'])}, {signed(row['target_effect'])} "
        f"{with_minus(interval(row))}{spread} "
        f"(at +c {signed(row['up'])}, at −c {signed(row['down'])}; Δ NLL "
        f"{signed(row['delta_nll'])})"
    )


def ahead(equal: pl.DataFrame) -> float | None:
    """Return how many times as far as the best method with a dose the best prompt moves the target;
    null where none does.
    """
    best = {
        has_dose: rows["target_effect"].to_list()
        for (has_dose,), rows in equal.group_by("calibrated")
    }
    prompt, dosed = max(best.get(False, [0.0])), max(best.get(True, [0.0]))
    return prompt / dosed if prompt > 0 and dosed > 0 else None


def headline(equal: pl.DataFrame, learned: list[str], seeds: pl.DataFrame) -> list[str]:
    """Say what moves the target most at equal cost: trained, not trained, prompting, random; then
    which stand out, and how.

    `seeds` (method, seed, effect) holds the effects of single seeds, of which the single random
    directions are the control.
    """
    best = equal.sort("target_effect", descending=True)
    dosed, is_learned, is_random = (
        best.filter("calibrated"),
        pl.col("method").is_in(learned),
        pl.col("method") == "random",
    )
    kinds = {
        "Of the trained methods": dosed.filter(is_learned),
        "Of those without training": dosed.filter(~is_learned & ~is_random),
        "Without a dose, at its own cost": best.filter(~pl.col("calibrated")),
    }
    lines = [
        said(kind, rows.row(0, named=True)) + "." for kind, rows in kinds.items() if rows.height
    ]
    if (ratio := ahead(equal) or 0.0) >= 2:
        lines[-1] += f" That is {ratio:.0f} times as much as the best method with a dose."
    control, others = dosed.filter(is_random), dosed.filter(~is_random)
    if control.height:
        lines += against_random(
            control.row(0, named=True), others, seeds.filter(is_random)["effect"].to_list()
        )
    return [*lines, both_ways(others)] if others.height else lines


def against_random(control: dict[str, Any], others: pl.DataFrame, single: list[float]) -> list[str]:
    beyond = names(others.filter(pl.col("target_effect") > max(single)))
    return [
        f"{said('As a control', control)}; single directions from {signed(min(single))} to "
        f"{signed(max(single))}.",
        f"With a mean over seeds beyond every single random direction: {beyond}.",
    ]


def both_ways(rows: pl.DataFrame) -> str:
    up, down = pl.col("up"), -pl.col("down")
    turned = rows.filter(
        (up > 0) & (down > 0) & (pl.min_horizontal(up, down) >= EVEN * pl.max_horizontal(up, down))
    )
    return (
        f"With a dose, up at +c and down at −c, the weaker arm at least {100 * EVEN:.0f} % of "
        f"the stronger: {names(turned)}."
    )


def adapters(cells: list[Cell]) -> str:
    return "; ".join(f"{name_of(method)}, seed {seed}" for method, seed in cells)


def signs(guessed: list[Cell]) -> list[str]:
    """Say of which adapters the sign is a guess, so that the effect could as well be its
    opposite.
    """
    undecided = (
        f"With a sign that the calibration texts do not decide (|t| < {SURE:g}), so that − "
        "could as well be +"
    )
    return [f"{undecided}: {adapters(guessed)}."] if guessed else []


def names(rows: pl.DataFrame) -> str:
    return "; ".join(map(name_of, rows["method"])) or "none"


def setup(results: Results) -> dict[str, str]:
    """Return what was done, name -> words."""
    params, arms, model = results.params, results.tables["arms"], results.manifest
    doses = ", ".join(f"±{c:g}" for c in sorted(arms["coefficient"].unique()))
    cost = f"{results.dose.budget:g} nats per token ({MEASURES[results.dose.measure]})"
    splits = dict(results.pairs["split"].value_counts().rows())
    positive, negative = results.behaviour.sentences()[0]
    packed = "" if model["quantisation"] == "none" else f", {model['quantisation']}"
    trained = [trained_method(results, method) for method in params.methods]
    baselines = [
        name_of(m) + (f" ({results.n_random})" if m == "random" else "") for m in params.baselines
    ]
    return {
        "Model": f"{params.model}: {model['architecture']}, {model['layers']} layers, width "
        f"{model['hidden_size']}{packed}",
        "Behaviour": f"{params.behaviour}; +1 stands for “{positive}”, −1 for “{negative}”",
        "Contrast pairs": f"{splits.get('train', 0)} to train on, {splits.get('calibration', 0)} "
        "for sign, dose and checkpoint",
        "Dilemmas": f"{results.items['dilemma_id'].n_unique()} of {params.evalset}, "
        f"{results.n_dilemmas} of them on "
        f"{results.target.label}; each is asked from both sides",
        "Trained methods": f"{'; '.join(trained)}. {results.seeds.capitalize()}"
        if trained
        else "none",
        "Without training": "; ".join(baselines) or "none",
        "Coefficients": f"{doses}, and the dose that costs {cost} on calibration texts",
        "Signs, doses, checkpoints": "from contrast pairs alone; no dilemma is used for any choice",
    }


def trained_method(results: Results, method: str) -> str:
    summary = results.adapters[method, results.params.seeds[0]]["summary"]
    return (
        f"{name_of(method)} ({summary['parameters']:,.0f} parameters on "
        f"{summary['modules']:.0f} modules)"
    ).replace(",", " ")


def context(results: Results, reproduction: dict[str, str], params_text: str) -> dict[str, Any]:
    """Return the variables of the page's template and of the texts in page.yaml."""
    equal = results.tables["equal_cost"]
    return {
        "params": results.params, "manifest": results.manifest, "synthetic": results.synthetic, "unit": results.unit,
        "target": results.target.label, "opposite": results.target.opposite, "oracle": results.oracle,
        "n_dilemmas": results.n_dilemmas, "budget": results.dose, "measure": MEASURES[results.dose.measure],
        "pair": results.params.composition, "examples": results.examples, "ahead": ahead(equal),
        "guessed": adapters(results.guessed), "sure": SURE,
        "unreached": [name_of(method) for method in results.unreached],
        "headline": headline(equal, results.params.methods, results.seed_effects) + signs(results.guessed),
        "setup": setup(results),
        "name_of": name_of, "signed": signed, "words": ACTIONS, "reproduction": reproduction,
        "manifest_text": json.dumps(results.manifest, indent=2), "params_text": params_text,
    }  # fmt: skip
