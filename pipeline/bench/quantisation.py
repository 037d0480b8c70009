"""What 8 and 4 bits cost on the bundled model; prints the table of docs/quantisation.md.

One seed, few pairs and dilemmas, on the CPU in float32: only the order of magnitude counts.
"""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from pipeline.app.use import load_base
from pipeline.lm.base import Base
from pipeline.lm.forward import last_hidden, to_logits
from pipeline.lm.layers import select
from pipeline.lm.quantisation import memory, weight_of
from pipeline.reference.items import held_out_items
from pipeline.scoring.score import score
from pipeline.steering.base import Attachable, PairSplits
from pipeline.steering.methods.innerpissa import InnerPissa
from pipeline.steering.svd import write_cache
from pipeline.steering.training.adapter import TrainingStudy
from pipeline.steering.untouched import Untouched
from pipeline.study.behaviours import load_behaviour
from pipeline.study.pairs import build_pairs, load_suffixes, renderer
from pipeline.study.params import load_params
from pipeline.support.paths import SUFFIXES, behaviour_file

PARAMS = load_params()
TRAINING = PARAMS.training.model_copy(update={"epochs": 3})
PAIRS = PARAMS.pairs.model_copy(update={"max_pairs": 128})
BEHAVIOUR = load_behaviour(behaviour_file("honesty"))
ITEMS = held_out_items("honesty", 40, seed=PARAMS.evalsets.reference.seed)
LABEL = f"label_{BEHAVIOUR.targets['reference'].label}"
HEADER = (
    "form", "base MiB", "adapter MiB", "weight error", "change of log-odds", "ms per pass",
    "row alone", "effect", "made on none",
)  # fmt: skip


@dataclass(frozen=True)
class Form:
    """The base in one precision, and an adapter trained on it."""

    base: Base
    adapter: Attachable
    adapter_mib: float
    weights: list[Tensor]
    """Of the adapted modules, dequantised."""
    log_odds: dict[tuple[str, float], float]
    """Of the base model, by item and coefficient."""
    neutral: list[str]


def log_odds(
    base: Base, adapter: Attachable, coefficients: list[float]
) -> dict[tuple[str, float], float]:
    """Return the log-odds of Yes by item and coefficient."""
    records = score(base, ITEMS.to_dicts(), adapter, coefficients)
    return {(r["item_id"], r["coefficient"]): r["log_odds"] for r in records}


def effect(base: Base, adapter: Attachable) -> float:
    """Return half the span of the signed log-odds between c = +1 and c = -1, mean over items."""
    labels = dict(zip(ITEMS["item_id"], ITEMS[LABEL], strict=True))
    values = log_odds(base, adapter, [-1.0, 1.0])
    return sum(labels[item] * c * value for (item, c), value in values.items()) / 2 / len(ITEMS)


@torch.no_grad()
def passes(base: Base, texts: list[str]) -> tuple[float, float]:
    """Return CPU milliseconds per pass over all texts, and how far a row alone is from it."""

    def log_p(ids: Tensor, mask: Tensor) -> Tensor:
        return to_logits(base.model, last_hidden(base.model, ids, mask)[:, -1]).log_softmax(-1)

    ids, mask = base.encode(texts)
    together = log_p(ids, mask)
    start = time.process_time()
    for _ in range(5):
        last_hidden(base.model, ids, mask)
    spent = (time.process_time() - start) / 5
    alone = torch.cat([log_p(i[None], m[None]) for i, m in zip(ids, mask, strict=True)])
    return 1000 * spent, (alone - together).abs().max().item()


def fit(kind: str) -> Form:
    base = load_base(PARAMS.models["reference"].source, "float32", "cpu", quantisation=kind)
    base = replace(base, batch_size=64)
    targets = select(base.model, PARAMS.modules)
    frame = build_pairs(
        BEHAVIOUR, load_suffixes(SUFFIXES, "reference"), PAIRS, renderer(base.tokenizer, {})
    )
    pairs = PairSplits.of(frame)
    with tempfile.TemporaryDirectory() as folder:
        svd = Path(folder) / "svd"
        write_cache(svd, targets, None, base.fingerprint)
        study = TrainingStudy(modules=PARAMS.modules, svd=svd, rank=PARAMS.rank, training=TRAINING)
        adapter = InnerPissa.fit(base, pairs, PARAMS.steering["innerpissa"], study, seed=0)
    return Form(
        base,
        adapter,
        adapter.summary["adapter_mib"],
        [weight_of(target.module) for target in targets],
        log_odds(base, Untouched(), [0.0]),
        pairs.calibration.neutral,
    )


def row(kind: str, form: Form, plain: Form) -> list[str]:
    """Return a form's cells; `plain` is the one without quantisation."""
    errors = [
        ((own - whole).norm() / whole.norm()).item()
        for own, whole in zip(form.weights, plain.weights, strict=True)
    ]
    changes = [abs(value - plain.log_odds[key]) for key, value in form.log_odds.items()]
    spent, apart = passes(form.base, form.neutral)
    return [
        kind,
        f"{memory(form.base.model):.1f}",
        f"{form.adapter_mib:.1f}",
        f"{sum(errors) / len(errors):.3f}",
        f"{sum(changes) / len(changes):.2f}",
        f"{spent:.0f}",
        f"{apart:.1g}",
        f"{effect(form.base, form.adapter):.3f}",
        f"{effect(form.base, plain.adapter):.3f}",
    ]


def main() -> None:
    print(f"| {' | '.join(HEADER)} |")
    print("|:--|" + "--:|" * (len(HEADER) - 1))
    plain = fit("none")
    for kind in ("none", "8bit", "4bit"):
        form = plain if kind == "none" else fit(kind)
        print(f"| {' | '.join(row(kind, form, plain))} |", flush=True)


if __name__ == "__main__":
    main()
