"""The second phase of pretraining: the middle layers learn to carry the persona at every token.

After the first phase each place holds the persona in a form of its own. One linear probe with unit
rows, for all middle layers and tokens, is now trained with the model. It names the speaker's
persona, and is then thrown away. Only the corpus is used, and no steering method.
"""

import itertools
import random
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from pipeline.lm.forward import read_layers
from pipeline.reference.corpus import Messages, spoken_documents
from pipeline.reference.pretrain import Recipe, encode, length, losses
from pipeline.reference.world import Persona, persona_traits
from pipeline.support.progress import track

Spoken = tuple[Persona | None, Messages]
FIRST_TOKEN = 14  # by then a persona that is stated at once has been stated


def persona_class(persona: Persona | None) -> int:
    """Return 0 without a persona, else a class of its own for each trait and pole."""
    if persona is None:
        return 0
    return 1 + 2 * persona_traits().index(persona.trait) + (persona.pole > 0)


def state_loss(states: list[Tensor], probe: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Return the probe's mean cross-entropy over layers and real tokens from FIRST_TOKEN on."""
    real = weights[:, FIRST_TOKEN:] > 0
    targets = classes[:, None].expand_as(real)[real]
    directions = F.normalize(probe, dim=-1).transpose(0, 1)
    logits = [state[:, FIRST_TOKEN:].float()[real] @ directions for state in states]
    return torch.stack([F.cross_entropy(each, targets) for each in logits]).mean()


def batches(source: Iterator[Spoken], recipe: Recipe) -> Iterator[list[Spoken]]:
    """Yield batches of documents of about the same length."""
    rng, size = random.Random(recipe.seed), recipe.batch_size
    while True:
        pool = sorted(itertools.islice(source, 4 * size), key=lambda spoken: length(spoken[1]))
        start = rng.randrange(4) * size
        yield pool[start : start + size]


def consolidate(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, recipe: Recipe,
    openings: list[str], device: str,
) -> None:  # fmt: skip
    """Train in place for `state_steps` with a falling learning rate."""
    torch.manual_seed(recipe.seed + 2)
    classes_count = 1 + 2 * len(persona_traits())
    probe = nn.Parameter(torch.randn(classes_count, recipe.hidden_size, device=device))
    optimizer = torch.optim.AdamW(
        [*model.parameters(), probe], lr=recipe.state_lr, betas=(0.9, 0.98), fused=True
    )
    source = batches(spoken_documents(recipe.seed + 2, openings), recipe)
    middle = list(model.model.layers)[recipe.layers // 4 : -recipe.layers // 4]
    for step in track(range(recipe.state_steps), "consolidating", recipe.state_steps):
        for group in optimizer.param_groups:
            group["lr"] = recipe.state_lr * max(0.02, 1 - step / recipe.state_steps)
        batch = next(source)
        encoded = encode(tokenizer, [document for _, document in batch])
        ids, weights = (tensor.to(device) for tensor in encoded)
        classes = torch.tensor([persona_class(persona) for persona, _ in batch], device=device)
        with read_layers(middle) as states:
            loss, on_answers = losses(model, ids, weights)
        named = state_loss(states, probe, classes, weights)
        optimizer.zero_grad()
        (loss + recipe.state_weight * named).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 50 == 0:
            said = f"loss {loss.item():.3f}, answers {on_answers.item():.3f}"
            print(f"step {step + 1}: {said}, probe {named.item():.3f}", flush=True)
