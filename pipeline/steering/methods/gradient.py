"""Gradient directions: where a loss that pushes the two personas apart would move the states.

    fisher   v = (F + lambda I)^-1 mean(G)        a natural gradient; G [n, d], a gradient per text
    svd      v = first right singular vector of the centred G

They are taken at each site, |v| = 1, and applied as every `Direction`. For the gradients g of
`repr_margin`, G is -g+ (positive texts), g- (negative texts) or both.

Source: the InnerPiSSA repository and its author's repeng, September 2025.
"""

from contextlib import ExitStack
from typing import Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import normalize, relu

from pipeline.lm.base import Base
from pipeline.lm.forward import last_hidden, layer_output, read_layers, scattered, tails, token_nll
from pipeline.lm.layers import decoder_layers, depth_to_layer
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.steering.base import Look, Pairs, PairSplits, Study
from pipeline.steering.direction import Direction, DirectionParams, layers_in_range
from pipeline.steering.states import pair_differences
from pipeline.support.errors import InputError

PAIRS = 16  # pairs per pass with gradients, two texts each


class GradientParams(DirectionParams):
    site: Literal["hidden", "q_proj", "k_proj", "v_proj", "o_proj", "down_proj"]
    """Where gradients are taken and the direction is added: layers, or one kind of module."""
    kind: Literal["fisher", "svd"]
    """(F + lambda I)^-1 mean gradient, or first right singular vector of the centred gradients."""
    fisher: Literal["empirical", "normalised", "covariance"]
    """G^T G / n, the same of rows of unit length, or centred with n - 1."""
    regularisation: float | None = Field(gt=0)
    """lambda as a share of F's mean eigenvalue; null takes a hundredth."""
    rows: Literal["pooled", "positive", "negative", "difference"]
    """Gradients of both texts (negative ones reversed), of one, or a difference (dual)."""
    loss_depth: float = Field(ge=0, le=1)
    """The layer whose states the ReprPO loss pushes apart, as a fraction of the depth."""
    margin: float = Field(ge=0)
    """Share of the base log-probability that the margin leaves, 0.99 in the source. At last_tokens
    1, as published, the margin cannot act: the last token of a text predicts nothing of it."""
    margin_weight: float = Field(ge=0)
    """The weight of what the positive text's likelihood lacks of the margin, squared."""


class Gradient(Direction):
    section = GradientParams
    label = "gradient direction"
    source = "InnerPiSSA, M. J. Clark, https://github.com/wassname/InnerPiSSA"
    look = Look("#332288", "*")
    free_sign = True

    @classmethod
    def fit(
        cls, base: Base, pairs: PairSplits, section: GradientParams, study: Study, seed: int
    ) -> Direction:
        sites = find_sites(base.model, section)
        differences = pair_differences(base, pairs.train, sites, section.last_tokens)
        positive, negative = pair_gradients(base, pairs.train, sites, section).double()
        directions = [
            gradient_direction(positive[:, k], negative[:, k], section) for k in range(len(sites))
        ]
        return cls.along(sites, torch.stack(directions).to(differences), differences)


def find_sites(model: nn.Module, section: GradientParams) -> list[str]:
    """Return the modules where gradients are taken; refuse none, and a loss layer before them."""
    sites = {name: index for index, name in layers_in_range(model, section).items()}
    if section.site != "hidden":
        sites = {
            f"{layer}.{name}": index
            for layer, index in sites.items()
            for name, _ in model.get_submodule(layer).named_modules()
            if name.rsplit(".", 1)[-1] == section.site
        }
    if not sites:
        raise InputError(
            f"no module between depth {section.from_depth} and {section.to_depth} is named "
            f"{section.site}"
        )
    last, loss = max(sites.values()), depth_to_layer(model, section.loss_depth)
    if loss < last:
        raise InputError(
            f"loss_depth {section.loss_depth} is layer {loss}, before the last site's layer "
            f"{last}: raise it"
        )
    return list(sites)


def repr_margin(
    positive: Float[Tensor, "n d"], negative: Float[Tensor, "n d"], log_prob: Float[Tensor, " n"],
    margin: float, margin_weight: float,
) -> Float[Tensor, " n"]:  # fmt: skip
    """Return the ReprPO loss with a margin on the likelihood (InnerPiSSA repository, Sept. 2025).

        L = -|h+ - h-| + margin_weight * relu(margin * sg(l+) - l+)^2

    h+ and h- are states, l+ the mean log-probabilities of the positive texts, in nats per token.
    These are negative, so that a margin below 1 lies just above them. The second term then has a
    gradient at the base model itself.
    """
    shortfall = relu(margin * log_prob.detach() - log_prob)
    return margin_weight * shortfall.square() - (positive - negative).norm(dim=-1)


def pair_gradients(
    base: Base, pairs: Pairs, sites: list[str], section: GradientParams
) -> Float[Tensor, "2 n k d"]:
    """Return the gradients of every pair's own loss at k sites, positive texts first; on the CPU.

    They are the mean over the last tokens. With last_tokens 1, as in the source, the margin term
    adds exactly nothing. The last position of a causal model predicts no token of its text.
    """
    parts = []
    for start in range(0, len(pairs.positive), PAIRS):
        rows = slice(start, start + PAIRS)
        texts = pairs.positive[rows], pairs.negative[rows]
        parts.append(batch_gradients(base, *texts, sites, section))
    gradients = torch.cat(parts, dim=1)
    for site, size in zip(sites, gradients.norm(dim=-1).mean((0, 1)).tolist(), strict=True):
        if not 0 < size < float("inf"):
            raise InputError(
                f"the gradients at {site} are zero or not finite: choose other sites, or dtype "
                "float32"
            )
    return gradients


@torch.enable_grad()
def batch_gradients(
    base: Base, positive: list[str], negative: list[str], sites: list[str], section: GradientParams
) -> Float[Tensor, "2 n k d"]:
    """Return the gradients of n pairs; rows do not see each other, so the losses may be summed."""
    model = base.model
    rows = tokenize(base.tokenizer, [*positive, *negative])
    ids, mask = pad_left(rows, base.tokenizer.pad_token_id, model.device)
    modules, layers = [model.get_submodule(site) for site in sites], decoder_layers(model)
    loss_layer = layers[min(depth_to_layer(model, section.loss_depth), len(layers) - 1)]
    with ExitStack() as attached, read_layers([*modules, loss_layer]) as seen:
        for module in modules:
            attached.callback(module.register_forward_hook(require_gradient).remove)
        hidden = last_hidden(model, ids, mask)
    n, last = len(positive), section.last_tokens
    states = seen[-1][:, -1].float().to(ids.device)
    log_prob = mean_log_prob(model, hidden[:n], ids[:n], [len(row) for row in rows[:n]])
    by_pair = repr_margin(states[:n], states[n:], log_prob, section.margin, section.margin_weight)
    loss = by_pair.sum()
    gradients = torch.autograd.grad(loss, seen[:-1])
    means = [gradient[:, -last:].float().mean(1).cpu() for gradient in gradients]
    return torch.stack(means, dim=1).unflatten(0, (2, n))


def require_gradient(_module, _inputs, output) -> None:
    """A forward hook that starts the graph at a module's output, since no base parameter does."""
    layer_output(output).requires_grad_()


def mean_log_prob(
    model: nn.Module, hidden: Float[Tensor, "b t d"], ids: Tensor, lengths: list[int]
) -> Float[Tensor, " b"]:
    """Return the mean log-probability (nats) of each row's tokens but the first.

    Nothing predicts the first one. `ids` [b, t] are padded on the left,
    `lengths` count real tokens.
    """
    counts = [length - 1 for length in lengths]
    places = tails(counts, ids.shape[1], ids.device)
    nll = scattered(ids.shape, places, token_nll(model, hidden, ids, places))
    return -nll.sum(-1) / torch.tensor(counts, device=ids.device)


def gradient_direction(
    positive: Float[Tensor, "n d"], negative: Float[Tensor, "n d"], section: GradientParams
) -> Float[Tensor, " d"]:
    """Return the unit direction of one site from the gradients g+ and g- in float64.

    `difference` (dual) finds a direction for -g+ and one for g-, and adds them before the unit
    norm. The sign is such that the mean of (g- - g+) v is not negative.
    """
    sets = {
        "positive": [-positive],
        "negative": [negative],
        "pooled": [torch.cat([-positive, negative])],
        "difference": [-positive, negative],
    }[section.rows]
    direction = torch.stack([one_direction(rows, section) for rows in sets]).sum(0)
    agreement = (negative - positive).mean(0) @ direction
    return normalize(torch.where(agreement < 0, -direction, direction), dim=0)


def one_direction(rows: Float[Tensor, "n d"], section: GradientParams) -> Float[Tensor, " d"]:
    """Return a direction from gradient rows, on the side of their mean.

    The regularisation is a share of F's mean eigenvalue: the source's absolute lambda depends
    on the loss's scale.
    """
    mean = rows.mean(0)
    if section.kind == "svd":
        component = torch.linalg.svd(rows - mean, full_matrices=False).Vh[0]
        return torch.where(component @ mean < 0, -component, component)
    F = fisher_matrix(rows, section.fisher)
    share = 0.01 if section.regularisation is None else section.regularisation
    damping = (share * F.trace() / len(F)).clamp(min=1e-12)
    return torch.linalg.solve(F + damping * torch.eye(len(F), dtype=F.dtype), mean)


def fisher_matrix(rows: Float[Tensor, "n d"], form: str) -> Float[Tensor, "d d"]:
    """Return F of gradient rows g.

    empirical: mean of g g^T. normalised ("improved empirical"): mean of g g^T / (|g|^2 + 1e-6), so
    that texts with large gradients do not rule. covariance: of the centred rows, over n - 1.
    """
    if form == "covariance":
        rows = rows - rows.mean(0)
        return rows.transpose(0, 1) @ rows / (len(rows) - 1)
    weights = torch.ones(())
    if form == "normalised":
        weights = 1 / (rows.square().sum(-1, keepdim=True) + 1e-6)
    return (weights * rows).transpose(0, 1) @ rows / len(rows)
