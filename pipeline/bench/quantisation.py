"""What 8 and 4 bits cost on the bundled model: `python -m pipeline.bench.quantisation` prints the
table of docs/quantisation.md.

One seed, few pairs and dilemmas, on the CPU in float32: figures of a small synthetic model, for the
order of magnitude.
"""

import tempfile
import time
from pathlib import Path

import torch

from pipeline import load_base
from pipeline.evalsets.reference import build_items
from pipeline.lm.forward import last_hidden, to_logits
from pipeline.lm.layers import select
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.lm.quantisation import memory, weight_of
from pipeline.scoring.score import score
from pipeline.steering import METHODS
from pipeline.steering.base import Context, Pairs
from pipeline.steering.svd import write_cache
from pipeline.study.behaviours import load_behaviour
from pipeline.study.pairs import build_pairs, load_suffixes, renderer
from pipeline.study.params import load_params
from pipeline.support.paths import SUFFIXES, behaviour_file

PARAMS = load_params()
TRAINING = PARAMS.training.model_copy(update={"epochs": 3})
BEHAVIOUR = load_behaviour(behaviour_file("honesty"))
ITEMS = build_items(
    PARAMS.evalsets.reference.model_copy(update={"target_dilemmas": 40, "other_dilemmas": 0}),
    "honesty",
)
LABELS = dict(
    zip(ITEMS["item_id"], ITEMS[f"label_{BEHAVIOUR.targets['reference'].label}"], strict=True)
)


def answers(model, tokenizer, adapter, coefficients) -> dict[tuple[str, float], float]:
    """Return the log-odds of Yes by item and coefficient."""
    records = score(model, tokenizer, ITEMS.to_dicts(), adapter, coefficients, 64, {})
    return {(r["item_id"], r["coefficient"]): r["log_odds"] for r in records}


def effect(model, tokenizer, adapter) -> float:
    """Return half the span of the signed log-odds between c = +1 and c = -1, mean over items."""
    found = answers(model, tokenizer, adapter, [-1.0, 1.0])
    return sum(LABELS[item] * c * value for (item, c), value in found.items()) / 2 / len(ITEMS)


@torch.no_grad()
def passes(model, tokenizer, texts: list[str]) -> tuple[float, float]:
    """Return CPU milliseconds per pass over all texts, and how far a row alone is from the same row
    in the batch.
    """
    ids, mask = pad_left(tokenize(tokenizer, texts), tokenizer.pad_token_id, model.device)
    together = to_logits(model, last_hidden(model, ids, mask)[:, -1]).log_softmax(-1)
    start = time.process_time()
    for _ in range(5):
        last_hidden(model, ids, mask)
    spent = (time.process_time() - start) / 5
    alone = [
        to_logits(model, last_hidden(model, i[None], m[None])[:, -1]).log_softmax(-1)
        for i, m in zip(ids, mask, strict=True)
    ]
    return 1000 * spent, (torch.cat(alone) - together).abs().max().item()


def main() -> None:
    plain: dict = {}
    print(
        "| form | base MiB | adapter MiB | weight error | change of log-odds | ms per pass | row "
        "alone | effect | made on none |"
    )
    print("|:--|" + "--:|" * 8)
    for kind in ("none", "8bit", "4bit"):
        model, tokenizer, fingerprint = load_base(
            PARAMS.models["reference"].source, "float32", "cpu", quantisation=kind
        )
        targets, frame = select(model, PARAMS.modules), build_pairs(
            BEHAVIOUR, load_suffixes(SUFFIXES), PARAMS.pairs.model_copy(update={"max_pairs": 128}), renderer(tokenizer, {})
        )  # fmt: skip
        split = Pairs.of(frame, "train"), Pairs.of(frame, "calibration")
        with tempfile.TemporaryDirectory() as folder:
            write_cache(Path(folder) / "svd", targets, None, fingerprint)
            context = Context(
                PARAMS.steering["innerpissa"],
                rank=PARAMS.rank,
                modules=PARAMS.modules,
                training=TRAINING,
                svd=Path(folder) / "svd",
            )
            adapter = METHODS["innerpissa"].load().fit(model, tokenizer, *split, context, seed=0)
        weights, base = (
            [weight_of(target.module) for target in targets],
            answers(model, tokenizer, None, [0.0]),
        )
        plain = plain or {"weights": weights, "base": base, "adapter": adapter}
        error = sum(
            ((w - v).norm() / v.norm()).item()
            for w, v in zip(weights, plain["weights"], strict=True)
        ) / len(weights)
        change = sum(abs(value - plain["base"][key]) for key, value in base.items()) / len(base)
        spent, apart = passes(model, tokenizer, split[1].neutral)
        cells = [
            f"{memory(model):.1f}", f"{adapter.summary['adapter_mib']:.1f}", f"{error:.3f}", f"{change:.2f}", f"{spent:.0f}",
            f"{apart:.1g}", f"{effect(model, tokenizer, adapter):.3f}", f"{effect(model, tokenizer, plain['adapter']):.3f}",
        ]  # fmt: skip
        print(f"| {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
