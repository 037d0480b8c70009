"""What 8 and 4 bits cost on the bundled model; prints the table of docs/quantisation.md.

One seed, few pairs and dilemmas, on the CPU in float32: only the order of magnitude counts.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import polars as pl
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
from pipeline.steering.training.params import TrainingStudy
from pipeline.steering.untouched import Untouched
from pipeline.study.behaviours import load_behaviour
from pipeline.study.pairs import draw_pairs
from pipeline.study.params import load_params
from pipeline.support.formats import markdown
from pipeline.support.paths import behaviour_file

PARAMS = load_params()
TRAINING = PARAMS.training.model_copy(update={"epochs": 3})
PAIRS = PARAMS.pairs.model_copy(update={"max_pairs": 128})
BEHAVIOUR = load_behaviour(behaviour_file("honesty"))
ITEMS = held_out_items("honesty", 40, seed=PARAMS.evalsets.reference.seed)
LABEL = f"label_{BEHAVIOUR.targets['reference'].label}"


class Form(NamedTuple):
    """The base in one precision, and an adapter trained on it."""

    base: Base
    adapter: InnerPissa
    weights: list[Tensor]
    """Of the adapted modules, dequantised."""
    log_odds: pl.Series
    """Of the base model, by item."""
    neutral: list[str]


def log_odds(base: Base, adapter: Attachable, c: float) -> pl.Series:
    """Return the log-odds of Yes (nats) of every item at one coefficient."""
    records = pl.DataFrame(score(base, ITEMS.to_dicts(), adapter, [c]))
    return ITEMS.join(records, on="item_id", maintain_order="left")["log_odds"]


def effect(base: Base, adapter: Attachable) -> float:
    """Return half the span of the signed log-odds between c = +1 and c = -1, mean over items."""
    span = log_odds(base, adapter, 1.0) - log_odds(base, adapter, -1.0)
    return float((ITEMS[LABEL] * span).sum()) / 2 / len(ITEMS)


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
    pairs = PairSplits.of(draw_pairs(BEHAVIOUR, "reference", PAIRS, base.tokenizer, {}))
    with tempfile.TemporaryDirectory() as folder:
        svd = Path(folder) / "svd"
        write_cache(svd, targets, None, base.fingerprint)
        study = TrainingStudy(modules=PARAMS.modules, svd=svd, rank=PARAMS.rank, training=TRAINING)
        adapter = InnerPissa.fit(base, pairs, PARAMS.steering["innerpissa"], study, seed=0)
    weights = [weight_of(target.module) for target in targets]
    plain = log_odds(base, Untouched(), 0.0)
    return Form(base, adapter, weights, plain, pairs.calibration.neutral)


def row(kind: str, form: Form, plain: Form) -> dict[str, str]:
    """Return a form's cells; `plain` is the one without quantisation."""
    errors = [
        ((own - whole).norm() / whole.norm()).item()
        for own, whole in zip(form.weights, plain.weights, strict=True)
    ]
    changes = (form.log_odds - plain.log_odds).abs()
    spent, apart = passes(form.base, form.neutral)
    return {
        "form": kind,
        "base MiB": f"{memory(form.base.model):.1f}",
        "adapter MiB": f"{form.adapter.summary['adapter_mib']:.1f}",
        "weight error": f"{sum(errors) / len(errors):.3f}",
        "change of log-odds": f"{changes.sum() / len(changes):.2f}",
        "ms per pass": f"{spent:.0f}",
        "row alone": f"{apart:.1g}",
        "effect": f"{effect(form.base, form.adapter):.3f}",
        "made on none": f"{effect(form.base, plain.adapter):.3f}",
    }


def main() -> None:
    plain = fit("none")
    forms = {"none": plain, "8bit": fit("8bit"), "4bit": fit("4bit")}
    print(markdown(pl.DataFrame([row(kind, form, plain) for kind, form in forms.items()])), end="")


if __name__ == "__main__":
    main()
