"""Which sign of c is the positive persona: a first guess from states, then asked by probes.

A probe is a Yes-or-No question on which the two poles of a behaviour differ. With log-odds of Yes
y = log p(Yes) - log p(No), and i over probes,

    personas     d_i = y_i(positive persona) - y_i(negative persona), without an adapter
    movement     m_i = y_i(+c) - y_i(-c), without a persona
    contrast(x)  = (mean of x where the positive pole says Yes - mean where it says No) / 2

with its Welch t over probes. What moves every answer towards Yes is no behaviour. A model that
reads nothing may well be moved so, by a persona and by an adapter. It cancels in the contrast.
So the named pole decides where a probe counts, and not the sign of d_i. The personas decide whether
it counts: only where d_i, less what both poles share, goes as named. Where the personas move the
probes as a whole against their names, or not, no sign can be right, and none is decided.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pipeline.lm.base import Base, open_answers
from pipeline.lm.forward import last_hidden, read_layers, to_logits
from pipeline.lm.prefixes import states_at
from pipeline.lm.prompts import answer_tokens, user_chat
from pipeline.lm.trunk import repeat_rows
from pipeline.steering.base import Attachable, CostUnit, Sign, Steering, Trainable
from pipeline.steering.states import lay_all
from pipeline.steering.untouched import Untouched

SURE = 2.0  # |t| over probes below which nothing is decided: about the 5 % level, two-sided
FEWEST = 2  # probes that must count on each side: one has no spread


class Probe(NamedTuple):
    question: str
    yes: bool
    """Whether the positive persona says Yes."""


class Asked(NamedTuple):
    """What the base model makes of a behaviour's probes; all lists are by probe."""

    texts: list[str]
    """The rendered questions without a persona, up to the answer."""
    yes: list[bool]
    moved: list[float]
    """d: how far the personas differ, in nats."""
    counts: list[bool]
    """Whether they differ as named."""
    t: float
    """Of the personas' contrast."""


def contrast(values: Tensor, yes: Tensor) -> tuple[float, float]:
    """Return half the difference of values [n] between Yes and No probes, and its Welch t."""
    sides = values[yes], values[~yes]
    if min(map(len, sides)) < FEWEST:
        return 0.0, 0.0
    half = (sides[0].mean() - sides[1].mean()).item() / 2
    spread = math.sqrt(sum(side.var().item() / len(side) for side in sides)) / 2
    return half, half / spread if spread else 0.0


@torch.no_grad()
def log_odds(base: Base, texts: list[str], steering: Attachable, doses: list[float]) -> Tensor:
    """Return the log-odds of Yes [doses, texts] (nats) as the next word; on the CPU."""
    yes, no = answer_tokens(base.tokenizer).values()
    rows = [(c, text) for c in doses for text in texts]
    parts = []
    for start in range(0, len(rows), base.batch_size):
        part = rows[start : start + base.batch_size]
        ids, mask = base.encode([text for _, text in part])
        with steering.steer(base.model, torch.tensor([c for c, _ in part])):
            states = last_hidden(base.model, ids, mask)[:, -1]
        log_p = to_logits(base.model, states).log_softmax(-1)
        parts.append((log_p[:, yes].logsumexp(-1) - log_p[:, no].logsumexp(-1)).cpu())
    return torch.cat(parts).view(len(doses), len(texts))


def ask_personas(base: Base, probes: list[Probe], personas: list[tuple[str, str]]) -> Asked:
    """Ask the base model every probe under every wording (positive, negative) of the personas."""

    def rendered(before: str) -> list[str]:
        return open_answers(base, (user_chat(before + probe.question) for probe in probes))

    yes = [probe.yes for probe in probes]
    told = [text for pair in personas for sentence in pair for text in rendered(f"{sentence} ")]
    answers = log_odds(base, told, Untouched(), [0.0]).view(len(personas), 2, len(probes))
    moved = (answers[:, 0] - answers[:, 1]).mean(0)
    named = torch.tensor(yes)
    shared = (moved[named].mean() + moved[~named].mean()) / 2
    counts = (moved > shared) == named
    return Asked(rendered(""), yes, moved.tolist(), counts.tolist(), contrast(moved, named)[1])


def decide(base: Base, steering: Steering, asked: Asked | None) -> Sign:
    """Return what the probes say of `steering` at c = ±1; flip it where they say the opposite.

    Of an adapter that its training never improved, no sign is decided.
    """
    if steering.summary.get("best_step") == 0:
        return Sign(False, "no step of its training lowered the loss on calibration pairs")
    if asked is None:
        return Sign(False, "the behaviour has no probes")
    if not asked.t >= SURE:
        said = f"the personas do not move the base model's answers as named (t = {asked.t:.1f})"
        return Sign(False, said)
    counted = [i for i, counts in enumerate(asked.counts) if counts]
    doses = [float(steering.unit.raw(c)) for c in (1.0, 0.0, -1.0)]
    yes = torch.tensor([asked.yes[i] for i in counted])
    up, plain, down = log_odds(base, [asked.texts[i] for i in counted], steering, doses)
    t, up_t, down_t = (contrast(moved, yes)[1] for moved in (up - down, up - plain, down - plain))
    if not abs(t) >= SURE:
        return Sign(False, f"the probes do not tell +c from -c (t = {t:.1f})", t, up_t, down_t)
    if t > 0:
        return Sign(True, None, t, up_t, down_t)
    steering.flip()
    steering.unit = CostUnit(steering.unit.negative, steering.unit.positive)
    return Sign(True, None, -t, down_t, up_t, flipped=True)


@torch.no_grad()
def orientation(
    base: Base, steering: Trainable, neutral: list[str], layer: nn.Module, direction: Tensor,
    last_tokens: int, known: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Flip `steering` if c = +1 moves persona-free texts against the positive persona's direction.

    The movement is (h(+1) - h(-1)) . direction [d] at the loss layer, mean over the last tokens.
    It is reported before the flip, with its t over texts. The sign is only a first guess: a
    direction at one layer does not say what the model will answer.
    Where the loss says which sign is which, it is `known` and nothing is flipped.
    """
    parts = []
    for laid in lay_all(base, neutral, last_tokens):
        signs = torch.tensor([1.0, -1.0]).repeat_interleave(len(laid.rows.ids))
        with read_layers([layer]) as seen, steering.steer(base.model, signs):
            repeat_rows(base.model, laid.rows, 2, depth=0)
        ends = [at[-last_tokens:] for at in laid.at]
        up, down = states_at(seen[0].unflatten(0, (2, -1)), ends).float().mean(2).to(direction)
        parts.append((up - down) @ direction)
    moved = torch.cat(parts)
    mean, spread = moved.mean().item(), moved.std().item()
    against = mean < 0 and not known
    if against:
        steering.flip()
    return {
        "orientation_shift": mean,
        "orientation_t": mean / (spread / math.sqrt(len(neutral))) if spread else 0.0,
        "flipped": float(against),
    }
