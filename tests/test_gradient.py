"""Gradient directions: the loss by hand, gradients against pairs run alone, directions against direct solves."""

from itertools import product

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from pipeline.lm.forward import last_hidden, read_layers
from pipeline.lm.prompts import pad_left, tokenize
from pipeline.steering.base import Pairs
from pipeline.steering.methods.gradient import (
    Gradient,
    GradientParams,
    find_sites,
    fisher_matrix,
    gradient_direction,
    mean_log_prob,
    pair_gradients,
    repr_margin,
)
from pipeline.steering.states import pair_differences
from pipeline.support.errors import InputError

SECTION = GradientParams(
    method="gradient", from_depth=0.25, to_depth=0.75, last_tokens=1, site="hidden", kind="fisher", fisher="empirical",
    regularisation=None, rows="pooled", loss_depth=0.75, margin=0.99, margin_weight=1e4,
)  # fmt: skip


def section(**changes) -> GradientParams:
    return SECTION.model_copy(update=changes)


@pytest.fixture(scope="module")
def gradients():
    """Random g+ and g- [n, d] that on average point along -x and +x of a planted axis x = 3."""
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(2, 40, 8, generator=generator, dtype=torch.float64)
    positive[:, 3] -= 2
    negative[:, 3] += 2
    return positive, negative


@pytest.fixture
def few(pairs):
    return Pairs(*(texts[:4] for texts in (pairs[0].positive, pairs[0].negative, pairs[0].neutral)))


@pytest.fixture
def directions(fit, few, pairs):
    """Fit on few pairs with the section above."""
    return lambda **changes: fit(
        "gradient", pairs=pairs._replace(train=few), **section(**changes).model_dump()
    )


def test_repr_margin_by_hand():
    positive = torch.tensor([[3.0, 4.0], [1.0, 1.0]], requires_grad=True)
    negative = torch.tensor([[0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    log_prob = torch.tensor([-2.0, -1.0], requires_grad=True)
    loss = repr_margin(positive, negative, log_prob, 0.9, 100.0)
    torch.testing.assert_close(loss, torch.tensor([-5 + 100 * 0.2**2, -1 + 100 * 0.1**2]))
    toward, away, likelier = torch.autograd.grad(loss.sum(), [positive, negative, log_prob])
    torch.testing.assert_close(toward, torch.tensor([[-0.6, -0.8], [0.0, -1.0]]))
    torch.testing.assert_close(away, -toward)
    torch.testing.assert_close(likelier, torch.tensor([-40.0, -20.0]))


def test_a_margin_above_one_is_met_and_costs_nothing():
    states = torch.zeros(1, 2)
    assert repr_margin(states, states, torch.tensor([-2.0]), 1.1, 100.0) == 0


@torch.no_grad()
def test_mean_log_prob_is_that_of_each_text_alone(model, tokenizer, few):
    rows = tokenize(tokenizer, [few.positive[0], few.neutral[1]])
    assert len(rows[0]) != len(rows[1])
    ids, mask = pad_left(rows, tokenizer.pad_token_id, torch.device("cpu"))
    found = mean_log_prob(model, last_hidden(model, ids, mask), ids, [len(row) for row in rows])
    for row, value in zip(rows, found, strict=True):
        alone = torch.tensor([row])
        assert value.item() == pytest.approx(
            -model(input_ids=alone, labels=alone).loss.item(), rel=1e-4
        )


@pytest.mark.parametrize("site", ["hidden", "v_proj"])
@pytest.mark.parametrize("last_tokens", [1, 3])
def test_gradients_are_those_of_single_pairs_whatever_the_padding(
    model, few, site, last_tokens, base
):
    chosen = section(site=site, last_tokens=last_tokens, margin_weight=10.0)
    sites = find_sites(model, chosen)
    longer = Pairs([*few.positive, few.positive[0] * 3], [*few.negative, few.negative[0] * 2], [])
    together = pair_gradients(base, longer, sites, chosen)
    assert together.shape == (2, 5, len(sites), 64 if site == "hidden" else together.shape[-1])
    for i in range(4):
        alone = pair_gradients(base, Pairs([few.positive[i]], [few.negative[i]], []), sites, chosen)
        torch.testing.assert_close(together[:, i : i + 1], alone, rtol=1e-3, atol=1e-5)


def test_gradients_are_the_slope_of_the_loss(model, tokenizer, few, base):
    site, step, one = (
        find_sites(model, SECTION)[0],
        0.01,
        Pairs(few.positive[:1], few.negative[:1], []),
    )
    gradient = pair_gradients(base, one, [site], SECTION)[0, 0, 0]
    ids, mask = pad_left(
        tokenize(tokenizer, [*one.positive, *one.negative]),
        tokenizer.pad_token_id,
        torch.device("cpu"),
    )

    @torch.no_grad()
    def distance(size: float) -> float:
        shift = torch.zeros(2, ids.shape[1], 64)
        shift[0, -1] = size * gradient / gradient.norm()
        handle = model.get_submodule(site).register_forward_hook(
            lambda _module, _inputs, output: output + shift
        )
        with read_layers([model.model.layers[3]]) as seen:
            last_hidden(model, ids, mask)
        handle.remove()
        return (seen[0][0, -1] - seen[0][1, -1]).norm().item()

    slope = (distance(step) - distance(-step)) / (2 * step)
    assert slope == pytest.approx(-gradient.norm().item(), rel=1e-2)


def test_the_margin_reaches_earlier_tokens_only(model, few, base):
    for last_tokens, alike in ((1, True), (3, False)):
        sites = find_sites(model, SECTION)
        with_margin, without = (
            pair_gradients(base, few, sites, section(last_tokens=last_tokens, margin_weight=weight))
            for weight in (1e4, 0.0)
        )
        assert torch.allclose(with_margin, without, rtol=1e-4, atol=1e-6) == alike


@pytest.mark.parametrize("form", ["empirical", "normalised", "covariance"])
@pytest.mark.parametrize("regularisation", [None, 0.3])
def test_a_fisher_direction_is_a_direct_solve(gradients, form, regularisation):
    positive, negative = (g.numpy() for g in gradients)
    rows = np.concatenate([-positive, negative])
    F = {
        "empirical": np.mean([np.outer(g, g) for g in rows], 0),
        "normalised": np.mean([np.outer(g, g) / (g @ g + 1e-6) for g in rows], 0),
        "covariance": np.cov(rows, rowvar=False),
    }[form]
    torch.testing.assert_close(fisher_matrix(torch.from_numpy(rows), form), torch.from_numpy(F))
    damping = (regularisation or 0.01) * np.linalg.eigvalsh(F).mean()
    expected = np.linalg.inv(F + damping * np.eye(8)) @ rows.mean(0)
    found = gradient_direction(*gradients, section(fisher=form, regularisation=regularisation))
    torch.testing.assert_close(found, torch.from_numpy(expected / np.linalg.norm(expected)))


def test_the_svd_direction_is_sklearns_first_component(gradients):
    rows = torch.cat([-gradients[0], gradients[1]])
    rows[:, 5] *= 4
    half = len(rows) // 2
    found = gradient_direction(-rows[:half], rows[half:], section(kind="svd"))
    assert abs(found @ torch.from_numpy(PCA(1).fit(rows.numpy()).components_[0])) == pytest.approx(
        1
    )


def test_the_dual_direction_adds_the_two_solves(gradients):
    positive, negative = gradients[0], 10 * gradients[1]
    solved = []
    for rows in (-positive, negative):
        F = fisher_matrix(rows, "empirical")
        solved.append(torch.linalg.solve(F + 0.01 * F.trace() / 8 * torch.eye(8), rows.mean(0)))
    expected = torch.nn.functional.normalize(solved[0] + solved[1], dim=0)
    torch.testing.assert_close(
        gradient_direction(positive, negative, section(rows="difference")), expected
    )


def test_the_dual_svd_direction_adds_both_components_on_their_own_sides(gradients):
    parts = [
        gradient_direction(*gradients, section(rows=rows, kind="svd"))
        for rows in ("positive", "negative")
    ]
    for flip in (1, -1):
        both = gradient_direction(
            *(flip * g for g in gradients), section(rows="difference", kind="svd")
        )
        torch.testing.assert_close(
            both, flip * torch.nn.functional.normalize(parts[0] + parts[1], dim=0)
        )


@pytest.mark.parametrize(
    ("kind", "rows"), product(["fisher", "svd"], ["pooled", "positive", "negative", "difference"])
)
def test_the_sign_follows_the_gradients(gradients, kind, rows):
    for sign in (1, -1):
        positive, negative = (sign * g for g in gradients)
        found = gradient_direction(positive, negative, section(kind=kind, rows=rows))
        assert found.norm().item() == pytest.approx(1)
        assert (negative - positive).mean(0) @ found >= 0


@pytest.mark.parametrize("rows", ["pooled", "positive", "negative", "difference"])
def test_a_planted_axis_is_found(gradients, rows):
    positive, negative = gradients
    noise = torch.full((8,), 0.1, dtype=torch.float64)
    noise[3] = 1
    assert (
        gradient_direction(
            noise * positive,
            noise * negative,
            section(rows=rows, fisher="covariance", regularisation=100.0),
        )[3]
        > 0.98
    )
    assert (
        gradient_direction(noise * positive, noise * negative, section(rows=rows, kind="svd"))[3]
        > 0.98
    )


OPTIONS = [
    *(
        {"rows": rows, "kind": kind}
        for rows, kind in product(
            ["pooled", "positive", "negative", "difference"], ["fisher", "svd"]
        )
    ),
    *({"fisher": fisher} for fisher in ("normalised", "covariance")),
    *({"site": site} for site in ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")),
]


@pytest.mark.parametrize("changes", OPTIONS, ids=str)
def test_every_option_gives_directions_of_the_personas_own_length(
    model, few, changes, base, directions
):
    with torch.no_grad():
        steering = directions(**changes)
    differences = pair_differences(base, few, steering.sites, 1)
    lengths = differences.mean(0).norm(dim=-1) / 2
    assert steering.vectors.shape == differences.shape[1:] and steering.vectors.isfinite().all()
    torch.testing.assert_close(steering.vectors.norm(dim=-1), lengths)
    assert all(site.endswith(changes.get("site", ("1", "2"))) for site in steering.sites)
    assert not any(p.requires_grad or p.grad is not None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_batches_do_not_change_the_directions(few, monkeypatch, directions):
    whole = directions()
    monkeypatch.setattr("pipeline.steering.methods.gradient.PAIRS", 3)
    torch.testing.assert_close(directions().vectors, whole.vectors, rtol=1e-3, atol=1e-4)


def test_impossible_choices_are_refused(model, few, directions):
    with pytest.raises(
        InputError, match="loss_depth 0.25 is layer 1, before the last site's layer 2"
    ):
        directions(loss_depth=0.25)
    model.model.layers[1].self_attn.k_projection = model.model.layers[1].self_attn._modules.pop(
        "k_proj"
    )
    with pytest.raises(InputError, match="no module between depth 0.25 and 0.5 is named k_proj"):
        find_sites(model, section(site="k_proj", to_depth=0.5))


def test_the_loss_may_read_the_last_sites_own_layer(model, few, base):
    chosen = section(loss_depth=0.5)
    sites = find_sites(model, chosen)
    gradients = pair_gradients(base, few, sites, chosen)
    differences = pair_differences(base, few, sites, 1)[:, -1]
    torch.testing.assert_close(
        -gradients[0, :, -1],
        torch.nn.functional.normalize(differences, dim=-1),
        rtol=1e-4,
        atol=1e-5,
    )


@torch.no_grad()
def test_a_fitted_method_adds_its_vectors_and_can_be_rebuilt(model, tokenizer, few, directions):
    steering = directions(site="v_proj")
    loaded = Gradient.load(steering.tensors(), steering.metadata())
    ids, mask = pad_left(
        tokenize(tokenizer, few.neutral), tokenizer.pad_token_id, torch.device("cpu")
    )
    with read_layers([model.get_submodule(steering.sites[0])]) as seen:
        last_hidden(model, ids, mask)
    with loaded.steer(model, -2.0), read_layers([model.get_submodule(steering.sites[0])]) as moved:
        last_hidden(model, ids, mask)
    torch.testing.assert_close(moved[0], seen[0] - 2 * steering.vectors[0])
