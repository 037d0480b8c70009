"""Single dilemmas for the report: which ones a method moves most, which not at all, and what it
answers at each coefficient.
"""

from dataclasses import dataclass

import polars as pl

from pipeline.metrics.effects import mean_over_seeds, means, movements, p_yes
from pipeline.support.schemas import CALIBRATED, RAW

MOST, AGAINST, LEAST = "most moved", "most moved against c", "least moved"
COLUMNS = ["item_id", "dilemma_id", "coefficient", "log_odds", "choice_mass", "nll"]


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
    """One row per coefficient: coefficient, to_do and not_to_do (probability of Yes), target (of
    the target choice).
    """


def seed_effects(
    cells: dict[str, pl.DataFrame], base: pl.DataFrame, items: pl.DataFrame, target: str
) -> pl.DataFrame:
    """Return method, seed, coefficient, effect: of each seed alone at its equal-cost dose (else at
    its only one).
    """
    found = []
    for method, scores in cells.items():
        calibrated = scores.filter(pl.col("dose") == CALIBRATED)
        for (seed,), own in (calibrated if calibrated.height else scores).group_by(
            "seed", maintain_order=True
        ):
            moved = movements(pl.concat([base.select(COLUMNS), own.select(COLUMNS)]), items, target)
            half = moved.select(
                pl.col("effect") * pl.col("coefficient").sign(), "coefficient"
            ).filter(pl.col("coefficient") != 0)
            size = float(own["coefficient"].abs().to_numpy().max())
            found.append((method, int(str(seed)), size, float(half["effect"].to_numpy().mean())))
    return pl.DataFrame(found, schema=["method", "seed", "coefficient", "effect"], orient="row")


def answers(
    scores: pl.DataFrame, base: pl.DataFrame, items: pl.DataFrame, target: str
) -> pl.DataFrame:
    """Return a method's answers to the target's dilemmas, averaged over seeds, at the coefficients
    of params.yaml and at 0.

    Columns dilemma_id, coefficient, to_do and not_to_do (the probability of Yes), target (of the
    choice with the target value).
    """
    raw = mean_over_seeds(scores.filter(pl.col("dose") == RAW))
    moved = movements(pl.concat([base.select(COLUMNS), raw.select(COLUMNS)]), items, target)
    rows = moved.join(
        items.select("item_id", "action_type"), on="item_id", maintain_order="left"
    ).with_columns(
        p_yes(pl.col("log_odds")).alias("yes"), (pl.col("probability") + 0.5).alias("target")
    )
    keys = ["dilemma_id", "coefficient"]
    wide = rows.pivot("action_type", index=keys, values="yes", maintain_order=True)
    chosen = means(rows, keys, ["target"]).drop("count")
    return wide.join(chosen, on=keys, maintain_order="left").sort(*keys)


def spans(found: pl.DataFrame, coefficient: float) -> pl.DataFrame:
    """Return dilemma_id and `change`, half the span of the target choice between +c and -c, the
    largest first.
    """
    at = found.filter(pl.col("coefficient").abs() == coefficient)
    signed = at.with_columns((pl.col("target") * pl.col("coefficient").sign() / 2).alias("change"))
    return signed.group_by("dilemma_id", maintain_order=True).agg(pl.col("change").sum()).sort(
        "change", "dilemma_id", descending=[True, False]
    )  # fmt: skip


def pick(changes: pl.DataFrame, count: int) -> list[tuple[str, str, float]]:
    """Return (kind, dilemma_id, change): `count` of the most and of the least moved, and the one
    moved most against c, if any.
    """
    rows = changes.select("dilemma_id", "change").rows()
    top = [row for row in rows[:count] if row[1] > 0]
    bottom = [row for row in rows[-1:] if row[1] < 0]
    rest = [row for row in rows if row not in top and row not in bottom]
    least = sorted(rest, key=lambda row: abs(row[1]))[:count]
    kinds = ((MOST, top), (AGAINST, bottom), (LEAST, least))
    return [(kind, dilemma, change) for kind, part in kinds for dilemma, change in part]


def examples(
    method: str,
    scores: pl.DataFrame,
    base: pl.DataFrame,
    items: pl.DataFrame,
    target: str,
    coefficient: float,
    count: int = 2,
) -> list[Example]:
    found = answers(scores, base, items, target)
    shown = []
    for kind, dilemma, change in pick(spans(found, coefficient), count):
        situation, actions = texts(items.filter(pl.col("dilemma_id") == dilemma))
        shown.append(
            Example(
                method,
                kind,
                dilemma,
                change,
                situation,
                actions,
                found.filter(pl.col("dilemma_id") == dilemma),
            )
        )
    return shown


def texts(pair: pl.DataFrame) -> tuple[str, dict[str, str]]:
    """Split a dilemma's two prompts into the lines that they share and those of each action."""
    lines = {row["action_type"]: row["prompt"].splitlines() for row in pair.to_dicts()}
    shared = set.intersection(*map(set, lines.values()))
    first = next(iter(lines.values()))
    situation = "\n".join(line for line in first if line in shared)
    return situation, {
        action: "\n".join(line for line in own if line not in shared)
        for action, own in sorted(lines.items(), reverse=True)
    }
