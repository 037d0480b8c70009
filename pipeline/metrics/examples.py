"""Single dilemmas: which ones a method moves most, which not at all, and what it answers there."""

from dataclasses import dataclass

import polars as pl

from pipeline.metrics.scores import Evaluation, fold_arms, in_both, means

MOST, AGAINST, LEAST = "most moved", "most moved against c", "least moved"


@dataclass(frozen=True)
class Example:
    method: str
    kind: str
    dilemma_id: str
    change: float
    """Half the change of the probability of the target choice between +c and -c."""
    situation: str
    actions: dict[str, str]
    """Action type (to_do, not_to_do) -> what the reply says Yes or No to."""
    answers: pl.DataFrame
    """A row per coefficient: to_do and not_to_do (p of Yes), target (p of the target choice).

    target_log_odds: the mean signed log-odds of the target choice, in nats.
    """


def answers(scores: pl.DataFrame, evaluation: Evaluation) -> pl.DataFrame:
    """Return a method's answers to the target's dilemmas, averaged over seeds, at all c and at 0.

    Columns: dilemma_id, coefficient, and probabilities of Yes (to_do, not_to_do) and of
    the target's choice (target); target_log_odds in nats.
    """
    keys, actions = ["dilemma_id", "coefficient"], evaluation.items.select("item_id", "action_type")
    moved = evaluation.movements(scores).join(actions, on="item_id", maintain_order="left")
    rows = moved.with_columns(target=pl.col("probability") + 0.5, target_log_odds="y")
    wide = rows.pivot("action_type", index=keys, values="yes", maintain_order=True)
    chosen = means(rows, keys, in_both("target")).drop("count")
    return wide.join(chosen, on=keys, maintain_order="left").sort(*keys)


def half_changes(answered: pl.DataFrame, coefficient: float) -> pl.DataFrame:
    """Return dilemma_id and `change`, half the span of the target choice, the largest first."""
    rows = answered.filter(pl.col("coefficient").abs() == coefficient)
    halves = fold_arms(rows, ["dilemma_id"], ["target"]).rename({"target": "change"})
    return halves.sort("change", "dilemma_id", descending=[True, False])


def pick(changes: pl.DataFrame, count: int) -> list[tuple[str, str, float]]:
    """Return (kind, dilemma_id, change) of the most, the least and the most wrongly moved."""
    rows = changes.select("dilemma_id", "change").rows()
    shown = [(MOST, *row) for row in rows[:count] if row[1] > 0]
    shown += [(AGAINST, *row) for row in rows[-1:] if row[1] < 0]
    rest = [row for row in rows if row not in [(dilemma, change) for _, dilemma, change in shown]]
    return shown + [(LEAST, *row) for row in sorted(rest, key=lambda row: abs(row[1]))[:count]]


def examples(
    method: str, scores: pl.DataFrame, evaluation: Evaluation, coefficient: float, count: int = 2
) -> list[Example]:
    answered = answers(scores, evaluation)
    shown = []
    for kind, dilemma, change in pick(half_changes(answered, coefficient), count):
        asked = texts(evaluation.items.filter(dilemma_id=dilemma))
        own = answered.filter(dilemma_id=dilemma)
        shown.append(Example(method, kind, dilemma, change, *asked, own))
    return shown


def texts(items: pl.DataFrame) -> tuple[str, dict[str, str]]:
    """Split a dilemma's two prompts into the lines that they share and those of each action."""
    lines = {row["action_type"]: row["prompt"].splitlines() for row in items.to_dicts()}
    shared = set.intersection(*map(set, lines.values()))
    apart = {
        action: "\n".join(line for line in lines[action] if line not in shared)
        for action in sorted(lines, reverse=True)
    }
    return "\n".join(line for line in next(iter(lines.values())) if line in shared), apart
