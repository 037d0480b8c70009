"""What the page says in sentences of this one study."""

import json
from typing import Any

import polars as pl

from pipeline.metrics.scores import SUFFIXES
from pipeline.report.columns import in_log_odds
from pipeline.report.figures.words import name_of
from pipeline.report.results import Cell, Results
from pipeline.steering.sign import SURE
from pipeline.support.formats import interval, number, percent, with_minus, with_sign
from pipeline.support.sections import ReportParams

SCORED = {
    "answers": "Yes or No about each action: log-odds",
    "likelihood": "each action's own text as the reply to “What do you do?”: mean log-probability "
    "per token, less that of the other action",
}
ACTIONS = {"to_do": "the first side", "not_to_do": "the other side"}
MEASURE = "KL divergence from the base model"


def change(value: float) -> str:
    """Return a change in the words of a sentence, with its sign."""
    return with_minus(with_sign(value))


def names(methods: pl.Series) -> str:
    return "; ".join(map(name_of, methods)) or "none"


def adapters(cells: list[Cell]) -> str:
    return "; ".join(f"{name_of(method)}, seed {seed}" for method, seed in cells)


def effect(row: dict[str, Any]) -> str:
    """Return the effect with its interval, its spread over seeds and its arms."""
    seeds, sd = row["n_seeds"], number(row["seed_sd"])
    spread = f", standard deviation over {seeds} seeds {sd}" if seeds > 1 else ""
    limits = with_minus(interval(row["ci_low"], row["ci_high"]))
    arms = f"at +c {change(row['up'])}, at −c {change(row['down'])}"
    return f"{change(row['target_effect'])} {limits}{spread} ({arms})"


def said(kind: str, row: dict[str, Any], log_odds_first: bool) -> str:
    parts = [f"{effect(row)} in probability", f"{effect(in_log_odds(row))} nats of log-odds"]
    both = "; ".join(parts[::-1] if log_odds_first else parts)
    cost = f"Δ NLL {change(row['delta_nll'])}{missed(row)}"
    return f"{kind}: {name_of(row['method'])}, {both}; {cost}"


def missed(row: dict[str, Any]) -> str:
    """Say what ±1 cost where that is not the budget."""
    if row["budget_reached"] or not row["calibrated"]:
        return ""
    costs = "{cost_positive:.3f} / {cost_negative:.3f}".format(**row)
    return f"; the budget is not reached: KL {costs} at +c / −c"


def ahead(equal: pl.DataFrame, log_odds_first: bool) -> float | None:
    """Return how many times as far the best prompt moves the target as the best method with a dose.

    It is None where no prompt or no method with a dose moves it.
    """
    effects = f"target_effect{SUFFIXES[log_odds_first]}"
    dosed, prompt = (max(equal.filter(calibrated=c)[effects], default=0.0) for c in (True, False))
    return prompt / dosed if prompt > 0 and dosed > 0 else None


def headline(
    equal: pl.DataFrame, learned: list[str], seeds: pl.DataFrame, rules: ReportParams,
    log_odds_first: bool,
) -> list[str]:  # fmt: skip
    """Say what moves the target most at equal cost, by kind of method, and which stand out.

    `seeds` (method, seed, effect): effects of single seeds. Single random directions are the
    control.
    """
    best = equal.sort(f"target_effect{SUFFIXES[log_odds_first]}", descending=True)
    dosed, is_learned = best.filter("calibrated"), pl.col("method").is_in(learned)
    control, others = dosed.filter(method="random"), dosed.filter(pl.col("method") != "random")

    def first(kind: str, rows: pl.DataFrame) -> list[str]:
        return [f"{said(kind, row, log_odds_first)}." for row in rows.head(1).to_dicts()]

    lines = first("Of the trained methods", dosed.filter(is_learned))
    lines += first("Of those without training", others.filter(~is_learned))
    lines += first("Without a dose, at its own cost", best.filter(calibrated=False))
    if (ratio := ahead(equal, log_odds_first) or 0.0) >= rules.far_ahead:
        lines[-1] += f" That is {ratio:.0f} times as much as the best method with a dose."
    if control.height:
        lines += first("As a control", control)
        single = seeds.filter(method="random")["effect_log_odds"].to_list()
        lines.append(
            f"Further than each of {len(single)} random directions at the same cost, whatever its "
            f"sign ({change(min(single))} to {change(max(single))} nats): "
            f"{names(others.filter(random_rank=1)['method'])}."
        )
    return [*lines, both_ways(others, rules.even_arms)] if others.height else lines


def both_ways(rows: pl.DataFrame, even: float) -> str:
    """Say which methods move up at +c and down at -c, the weaker arm not too weak."""
    arms = pl.col("up"), -pl.col("down")
    weaker, stronger = pl.min_horizontal(arms), pl.max_horizontal(arms)
    methods = rows.filter((weaker > 0) & (weaker >= even * stronger))["method"]
    share = f"the weaker arm at least {100 * even:.0f} % of the stronger"
    return f"With a dose, up at +c and down at −c, {share}: {names(methods)}."


def left_out(undecided: list[Cell]) -> list[str]:
    """Say which fits have no known sign: the lines before are not about their methods."""
    said = "Left out, since the probes do not decide the sign, so that − could as well be +"
    return [f"{said}: {adapters(undecided)}."] if undecided else []


def setup(results: Results) -> dict[str, str]:
    """Return what was done, name -> words."""
    params, model = results.params, results.manifest
    sizes = {abs(c) for scores in results.cells.values() for c in scores["coefficient"]}
    coefficients = ", ".join(f"±{c:g}" for c in sorted(sizes))
    cost = f"{params.dose.budget:g} nats per token ({MEASURE})"
    positive, negative = results.behaviour.sentences()[0]
    packed = "" if model["quantisation"] == "none" else f", {model['quantisation']}"
    shape = f"{model['architecture']}, {model['layers']} layers, width {model['hidden_size']}"
    trained = "; ".join(trained_method(results, method) for method in params.methods)
    count = {"random": f" ({results.n_random})"}
    baselines = "; ".join(name_of(method) + count.get(method, "") for method in params.baselines)
    pairs = f"{results.n_pairs('train')} to train on, {results.n_pairs('calibration')}"
    asked, own = results.items["dilemma_id"].n_unique(), f"none of them on {params.behaviour}"
    known = "not measured"
    if not results.unmeasured:
        own = f"{results.n_dilemmas} of them on {results.target.label}"
        known = known_side(results.tables["equal_cost"].row(0, named=True))
    return {
        "Model": f"{params.model}: {shape}{packed}",
        "Behaviour": f"{params.behaviour}; +1 stands for “{positive}”, −1 for “{negative}”",
        "Personas": elicited(results.elicitation),
        "Contrast pairs": f"{pairs} for the checkpoint",
        "Dilemmas": f"{asked} of {params.evalset}, {own}; each is asked from both sides",
        "Untouched model": known,
        "Scores": "; and ".join(SCORED[form] for form in params.scoring.forms),
        "Trained methods": f"{trained}. {results.seeds.capitalize()}" if trained else "none",
        "Without training": baselines or "none",
        "Coefficients": f"{coefficients}, ±1 cost {cost} on replies of the base model",
        "Checkpoints": "from contrast pairs alone",
        "Signs": "from Yes-or-No probes for trained methods, PCA and gradient; else from pairs",
        "Defaults": "some were chosen on dilemmas of another value, kindness: docs/lab_notes.md",
    }


def elicited(elicitation: dict[str, float]) -> str:
    """Say how far the two personas move the untouched model's predictions on the pairs."""
    shift, few = elicitation["persona_shift"], elicitation["few"]
    verdict = "" if shift >= few else f"; below {few:g} a model hardly takes them up"
    return f"move the untouched model's next tokens by {number(shift)} nats per token{verdict}"


def known_side(row: dict[str, Any]) -> str:
    """Say how often the untouched model prefers the target's side, in a row of equal_cost."""
    shares = {"": row["base_share"], " by likelihood": row.get("base_share_likelihood")}
    said = [f"{percent(share)} %{form}" for form, share in shares.items() if share is not None]
    known = ", ".join(said)
    return f"prefers the side with the target value in {known} of those dilemmas; chance is 50 %"


def trained_method(results: Results, method: str) -> str:
    summary = results.adapters[method, results.params.seeds[0]]["summary"]
    parameters = f"{summary['parameters']:,.0f} parameters".replace(",", " ")
    return f"{name_of(method)} ({parameters} on {summary['modules']:.0f} modules)"


def context(results: Results, reproduction: dict[str, str], params_text: str) -> dict[str, Any]:
    """Return the variables of the page's template and of the texts in page.yaml."""
    own = ("params", "manifest", "synthetic", "unmeasured", "unit", "log_odds_first")
    shared = {name: getattr(results, name) for name in own} | {
        "target": results.target.label, "opposite": results.target.opposite, "sure": SURE,
        "budget": results.params.dose, "measure": MEASURE, "pair": results.params.composition,
        "setup": setup(results), "name_of": name_of, "change": change, "words": ACTIONS,
        "reproduction": reproduction, "manifest_text": json.dumps(results.manifest, indent=2),
        "params_text": params_text, "examples": [],
    }  # fmt: skip
    return shared if results.unmeasured else shared | of_effects(results)


def of_effects(results: Results) -> dict[str, Any]:
    """Return the variables about effects, which a study without a target lacks."""
    equal, params = results.tables["equal_cost"], results.params
    first = results.log_odds_first
    unknown = pl.col("method").is_in([method for method, _ in results.undecided])
    known, seeds = equal.filter(~unknown), results.seed_effects
    lines = headline(known, params.methods, seeds, params.report, first)
    own = ("oracle", "n_dilemmas", "examples", "n_random")
    return {name: getattr(results, name) for name in own} | {
        "ahead": ahead(equal, first), "undecided": adapters(results.undecided),
        "unreached": list(map(name_of, results.unreached)),
        "headline": lines + left_out(results.undecided),
    }  # fmt: skip
