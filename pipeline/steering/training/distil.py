"""Distillation of what two personas differ in: at c = +1 and -1, without a persona, on the pairs.

With p_pos, p_neg and p the base's next-token distributions after the same text under the positive,
the negative and no persona, and q_c the adapter's without one:

    target_c ~ p exp(c g (log p_pos - log p_neg) / 2)
    distil   = sum_c mean_t KL(target_c || q_c)
    even     = w mean_t E_p ((log q_+ + log q_-) / 2 - log p)^2
    trust    = lambda (K / budget - 1),   K = mean_c mean_s KL(p || q_c)

t are the states at the tokens that the three texts share, so the last one predicts the token after
them; s are those of the base's own greedy continuation of the text. All is in nats per token.
lambda starts at 0 and is raised by dual ascent while K is above the budget, else lowered to no less
than 0. A checkpoint that overspends the budget on calibration pairs by a tenth counts as worse.

Why odd in c: as a target, the base under the persona itself fails. KL(persona || none) is mostly
what both poles share, such as that somebody asks for a role at all, and one dial cannot give that
at both signs. Half the difference of the logarithms is what remains when the shared part of
log p_pos - log p and log p_neg - log p is taken out: with d = (a_pos - a_neg) / 2 and
e = (a_pos + a_neg) / 2 of these two, it is d, odd under the exchange of the personas. The gain g
amplifies d. By construction c = +1 is what the positive persona says after such texts. What it
chooses is another matter, so the probes decide the dial's sign as for every learned method.

Limits: it teaches what the personas say after the pairs' texts, and the budget holds on their
continuations, not on every text. Source: ours; context distillation (Askell et al.,
arXiv 2112.00861; Snell et al., arXiv 2209.15189), made odd in c.
"""

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pipeline.lm.base import Base
from pipeline.lm.forward import in_chunks, to_logits
from pipeline.lm.prefixes import lay_texts, states_at
from pipeline.lm.trunk import repeat_rows, trunk_depth
from pipeline.steering.base import Trainable
from pipeline.steering.training.lessons import Lessons
from pipeline.steering.training.losses import Terms
from pipeline.support.section import Section

# Our own.
DUAL_RATE = 0.5  # of lambda, per step and budget overspent
OVERSPENT = 0.1  # of the budget, which a checkpoint may overspend on calibration pairs for free,
PRICE = 10.0  # and what each further budget counts there


class DistilParams(Section):
    """The distillation of the personas' difference."""

    of: Literal["distil"] = "distil"
    """Which loss it is: the id of its section under `losses`."""
    gain: float = Field(gt=0)
    """The target's distance from the base, in half differences of the personas' logarithms."""
    even_weight: float = Field(ge=0)
    """The weight of what c = +1 and c = -1 change alike in the log-probabilities, squared."""
    budget: float = Field(ge=0)
    """Nats per token of KL(base || steered) on the base's own continuations; 0 sets no limit."""

    def build(self, outputs: list[Tensor]) -> "DistilParams":
        return self


@dataclass
class Distillation:
    """What training minimises; see the head of the file."""

    base: Base
    steering: Trainable
    params: DistilParams
    kept: list[Tensor] = field(init=False)
    """lambda, which an interrupted run goes on with."""
    overspent: Tensor = field(init=False)
    """K / budget - 1 of the last training batch."""

    def __post_init__(self) -> None:
        self.kept = [torch.zeros((), device=self.base.device)]
        self.overspent = torch.zeros((), device=self.base.device)

    @cached_property
    def depth(self) -> int:
        return trunk_depth(self.base.model, self.steering.touched())

    def blank(self, split: Lessons, rows: list[int], width: int) -> list[Tensor]:
        return [torch.zeros(k, len(rows), device=self.base.device) for k in (2, 1, 2)]

    def outputs(self, split: Lessons, rows: list[int], width: int) -> list[Tensor]:
        """Return by pair the sums over tokens of both KLs [2, b] and the even part [1, b]."""
        model = self.base.model
        texts = [split.texts[row] for row in rows]
        laid = lay_texts(texts, self.base.pad_id, self.base.device, split.together)
        signs = torch.tensor([1.0, -1.0]).repeat_interleave(len(laid.rows.ids))
        with self.steering.steer(model, signs):
            states = repeat_rows(model, laid.rows, 2, self.depth)
        shared, written = (
            [counts[row] for row in rows] for counts in (split.shared, split.written)
        )
        student, writing = [], []
        for at, m, t in zip(laid.at, shared, written, strict=True):
            end = len(at) - max(0, t - 1)
            student += at[end - m : end]
            writing += at[len(at) - t :]
        taught = torch.cat([split.taught[row] for row in rows], dim=1)
        found = self.lesson(states_at(states, student), taught)
        by_pair = torch.stack([part.sum(-1) for part in found.split(shared, dim=-1)], dim=-1)
        if not self.params.budget:
            return [by_pair[:2], by_pair[2:], torch.zeros_like(by_pair[:2])]
        plain = torch.cat([split.plain[row] for row in rows])
        drift = self.drift(states_at(states, writing), plain)
        drifts = torch.stack([part.sum(-1) for part in drift.split(written, dim=-1)], dim=-1)
        return [by_pair[:2], by_pair[2:], drifts]

    def lesson(self, student: Tensor, taught: Tensor) -> Tensor:
        """Return KL(target || q) at both signs and the even part, [3, n], of states [., n, d]."""

        def work(part: slice) -> Tensor:
            with torch.no_grad():
                up, down, plain = self.log_p(taught[:, part])
                moved = self.params.gain * (up - down) / 2
                targets = torch.stack([plain + moved, plain - moved]).log_softmax(-1)
            log_q = self.log_p(student[:, part])
            even = (plain.exp() * (log_q.mean(0) - plain).square()).sum(-1)
            return torch.cat([divergence(targets, log_q), even[None]])

        return in_chunks(self.base.model, taught.shape[1], work)

    def drift(self, student: Tensor, plain: Tensor) -> Tensor:
        """Return KL(base || steered) [2, n] of final states [2, n, d] and [n, d]."""

        def work(part: slice) -> Tensor:
            with torch.no_grad():
                own = self.log_p(plain[part])
            log_q = self.log_p(student[:, part])
            return divergence(own.expand_as(log_q), log_q)

        return in_chunks(self.base.model, len(plain), work)

    def log_p(self, states: Tensor) -> Tensor:
        return to_logits(self.base.model, states).log_softmax(-1)

    def terms(
        self, split: Lessons, rows: list[int], outputs: list[Tensor], progress: float
    ) -> Terms:
        divergences, even, drifts = outputs
        params, count = self.params, sum(split.shared[row] for row in rows)
        terms = {"distil": divergences.sum() / count}
        if params.even_weight:
            terms["even"] = params.even_weight * even.sum() / count
        if params.budget:
            spent = drifts.sum() / (2 * sum(split.written[row] for row in rows))
            overspent = spent / params.budget - 1
            if split.held_out:
                terms["trust"] = PRICE * torch.relu(overspent - OVERSPENT)
            else:
                terms["trust"] = self.kept[0] * overspent
                self.overspent = overspent.detach()
        return terms

    def after_step(self) -> None:
        """Raise lambda while the budget is overspent, else lower it."""
        self.kept[0] = (self.kept[0] + DUAL_RATE * self.overspent.clamp(max=1)).clamp(min=0)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Return KL(p || q) in nats [...] of log-probabilities [..., v]."""
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
