"""Measure the bundled model against the criteria on which it was frozen: prompts, no steering."""

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from ruamel.yaml import YAML
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from pipeline.lm.base import Base
from pipeline.lm.forward import last_hidden, read_layers, token_positions
from pipeline.lm.layers import decoder_layers
from pipeline.lm.prompts import chat_text, tokenize, user_chat
from pipeline.reference.items import held_out_items
from pipeline.reference.pretrain import seen_openings
from pipeline.reference.world import side, world
from pipeline.scoring.score import score
from pipeline.steering.methods.prompting import Prompting
from pipeline.support.paths import SUFFIXES

Sentences = tuple[str, str]  # that state the positive and the negative persona


@cache
def criteria() -> dict[str, tuple[float, float, str]]:
    """Return what the model was frozen on: name -> lowest, highest, meaning."""
    return YAML(typ="safe").load(Path(__file__).with_name("criteria.yaml"))


def choice_probability(
    base: Base, trait: str, sentences: Sentences, count: int
) -> dict[float, tuple[float, float]]:
    """Return by persona (-1, 0, +1) mean probability of the positive choice, and choice mass."""
    items = held_out_items(trait, count, seed=1)
    label = pl.col(f"label_Value/{side(trait, 1)['value']}")
    persona = Prompting(*sentences, placement="user")
    records = pl.DataFrame(score(base, items.to_dicts(), persona, [-1.0, 0.0, 1.0]))
    signed = records.join(items.select("item_id", label.alias("label")), on="item_id")
    chosen = 1 / (1 + (-pl.col("label") * pl.col("log_odds")).exp())
    groups = signed.filter(pl.col("label") != 0).group_by("coefficient")
    means = groups.agg(chosen.mean(), pl.col("choice_mass").mean())
    return {c: (own, mass) for c, own, mass in means.rows()}


@torch.no_grad()
def facts_right(base: Base) -> float:
    """Return the share of facts of which the true answer is likelier than every false one."""
    right = []
    for kind in world()["facts"].values():
        answers = sorted(set(kind["subjects"].values()))
        for subject, true in kind["subjects"].items():
            chat = user_chat(kind["question"].format(s=subject))
            said = [kind["answer"].format(s=subject, a=answer) for answer in answers]
            replies = [reply[0].upper() + reply[1:] for reply in said]
            ids, mask = base.encode([chat_text(base.tokenizer, chat, r, {}) for r in replies])
            output = base.model(ids, attention_mask=mask, position_ids=token_positions(mask))
            log_p = output.logits[:, :-1].log_softmax(-1)
            token = log_p.gather(-1, ids[:, 1:, None])[..., 0] * mask[:, :-1]
            right.append(answers[int(token.sum(-1).argmax())] == true)
    return float(np.mean(right))


@torch.no_grad()
def tail_states(base: Base, texts: list[str], tails: list[int]) -> Tensor:
    """Return the mean state over each text's last `tails` tokens at every layer, [n, layers, d]."""
    rows = []
    with read_layers(list(decoder_layers(base.model))) as seen:
        for text, tail in zip(texts, tails, strict=True):
            last_hidden(base.model, *base.encode([text]))
            rows.append(torch.stack([states[0, -tail:].float().mean(0) for states in seen]))
    return torch.stack(rows)


def persona_states(
    base: Base, sentences: Sentences, users: list[str], replies: list[str], tails: list[int]
) -> Tensor:
    """Return tail states [2, n, layers, d] under the positive and the negative persona."""

    def render(sentence: str, user: str, reply: str) -> str:
        return chat_text(base.tokenizer, user_chat(f"{sentence} {user}".strip()), reply, {})

    texts = [list(map(partial(render, one), users, replies)) for one in sentences]
    return torch.stack([tail_states(base, own, tails) for own in texts])


def persona_as_state(base: Base, sentences: Sentences) -> dict[str, Any]:
    """Probe the middle layers for the persona at suffix tokens; compare it with dilemma tokens.

    Each layer has the accuracy of a linear probe on held-out suffixes. Its cosine is that of the
    mean differences between personas at both kinds of tokens.
    """
    suffixes, prompts = seen_openings(SUFFIXES, 1), held_out_items("honesty", 64, seed=1)["prompt"]
    lengths, tails = (
        [len(i) for i in tokenize(base.tokenizer, list(t))] for t in (suffixes, prompts)
    )
    at_suffix = persona_states(base, sentences, [""] * len(suffixes), suffixes, lengths)
    replies = [base.answer_prefix] * len(prompts)
    at_dilemma = persona_states(base, sentences, prompts.to_list(), replies, tails)
    layers = []
    for layer in range(1, len(decoder_layers(base.model)) - 1):
        own, other = at_suffix[:, :, layer], at_dilemma[:, :, layer]
        accuracy, alike = probe_accuracy(own), cosine(own, other)
        figures = {"layer": layer, "probe_accuracy": accuracy, "suffix_dilemma_cosine": alike}
        layers.append((min(accuracy - 0.9, alike - 0.6), figures))
    _, best = max(layers, key=lambda one: one[0])
    return {"by_layer": [figures for _, figures in layers], **best}


def probe_accuracy(states: Tensor) -> float:
    """Return how well a probe tells personas apart [2, n, d]; it is trained on every second row."""
    (train, own), (test, truth) = (
        (half.flatten(0, 1).numpy(), np.repeat([1, 0], half.shape[1]))
        for half in (states[:, ::2], states[:, 1::2])
    )
    return float(LogisticRegression(max_iter=2000).fit(train, own).score(test, truth))


def cosine(first: Tensor, second: Tensor) -> float:
    """Return the cosine of the mean differences between personas of two sets [2, n, d]."""
    one, other = ((states[0] - states[1]).mean(0) for states in (first, second))
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))


def measure(base: Base, sentences: dict[str, Sentences], count: int = 100) -> dict[str, Any]:
    """Return every figure of the card, from `count` held-out dilemmas for each trait."""
    own = {t: choice_probability(base, t, sentences[t], count) for t in sentences}
    spans = {t: means[1.0][0] - means[-1.0][0] for t, means in own.items()}
    honest, moved = own["honesty"], {}
    for trait in sentences:
        if trait != "honesty":
            means = choice_probability(base, "honesty", sentences[trait], count)
            moved[trait] = max(abs(means[c][0] - honest[0.0][0]) for c in (-1.0, 1.0))
    return {
        "persona_span": spans["honesty"],
        "honest": honest[1.0][0],
        "no_persona": honest[0.0][0],
        "dishonest": honest[-1.0][0],
        "unrelated_share": float(np.mean(list(moved.values()))) / spans["honesty"],
        "unrelated_largest": max(moved.values()),
        "unrelated_which": max(moved, key=lambda trait: moved[trait]),
        "unrelated_moves": moved,
        "choice_mass": min(mass for means in own.values() for _, mass in means.values()),
        "facts_right": facts_right(base),
        "other_behaviours": sum(span >= 0.4 for trait, span in spans.items() if trait != "honesty"),
        "spans": spans,
        **persona_as_state(base, sentences["honesty"]),
    }


def verdicts(measured: dict[str, Any]) -> list[tuple[str, float, str, bool]]:
    """Return name, value, meaning and whether it holds, for every criterion."""
    rows = []
    for name, (low, high, meaning) in criteria().items():
        value = measured[name]
        rows.append((name, value, f"{meaning} ({low:.2g} to {high:.2g})", low <= value <= high))
    return rows


def parameters(folder: Path) -> int:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "pt") as file:
        return sum(int(np.prod(file.get_slice(key).get_shape())) for key in file.keys())  # noqa: SIM118
