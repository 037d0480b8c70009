"""Pretrain the bundled model: next-token prediction, weighted towards what is said and chosen."""

import itertools
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from pipeline.reference.architecture import build_model, build_tokenizer, render
from pipeline.reference.corpus import Messages, documents
from pipeline.support.files import new_file, read_json
from pipeline.support.progress import track

# Of a token's loss: what the speaker says counts, and the answer Yes or No most.
USER_WEIGHT = 0.1
ASSISTANT_WEIGHT = 1.0
ANSWER_WEIGHT = 6.0
CHECKPOINT = 250  # steps between states to resume from
REPORTED = 50  # steps whose mean loss is printed
POOL = 16  # batches drawn together and sorted by length, so that little is padding


class Recipe(BaseModel):
    """Everything that decides the weights of the bundled model."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    hidden_size: int = 192
    layers: int = 8
    window: int = 24
    vocab_size: int = 3000
    tokenizer_documents: int = 20_000
    steps: int = 3600
    curriculum_steps: int = 1800
    batch_size: int = 64
    lr: float = 7e-4
    warmup_steps: int = 100
    decay_share: float = 0.3
    state_steps: int = 200
    state_lr: float = 4e-4
    state_weight: float = 0.3
    seed: int = 0


# The suffix files that lend free replies their first words.
OPENINGS = ("facts", "openings", "tasks", "thinking")


def seen_openings(folder: Path, first: int = 0) -> list[str]:
    """Return every second suffix of each file; the others (`first` 1) are held out for probes."""
    return [text for name in OPENINGS for text in read_json(folder / f"{name}.json")[first::2]]


def encode(tokenizer: PreTrainedTokenizerFast, batch: list[Messages]) -> tuple[Tensor, Tensor]:
    """Tokenise conversations into right-padded ids [b, t] and each token's weight [b, t]."""
    answers = {tokenizer.convert_tokens_to_ids(f"Ġ{word}") for word in ("Yes", "No")}
    said = [render([message]) for document in batch for message in document]
    turns = iter(tokenizer(said, add_special_tokens=False)["input_ids"])
    ids, weights = [], []
    for document in batch:
        row, row_weights = [], []
        for message in document:
            tokens = next(turns)
            speaking = message["role"] == "assistant"
            row += tokens
            for token in tokens:
                weight = ANSWER_WEIGHT if token in answers else ASSISTANT_WEIGHT
                row_weights.append(weight if speaking else USER_WEIGHT)
        ids.append(torch.tensor(row))
        weights.append(torch.tensor(row_weights))
    pad_id = tokenizer.pad_token_id or 0
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(ids, batch_first=True, padding_value=pad_id), pad(weights, batch_first=True)


def length(document: Messages) -> int:
    return sum(len(message["content"]) for message in document)


def batches(source: Iterator[Messages], size: int, rng: random.Random) -> Iterator[list[Messages]]:
    while True:
        pool = sorted(itertools.islice(source, size * POOL), key=length)
        chunks = [pool[i : i + size] for i in range(0, len(pool), size)]
        rng.shuffle(chunks)
        yield from chunks


def learning_rate(step: int, recipe: Recipe) -> float:
    """Warm up, hold, then fall linearly to a hundredth over the last `decay_share` of the steps."""
    left = (recipe.steps - step) / max(1.0, recipe.decay_share * recipe.steps)
    return recipe.lr * min(1.0, (step + 1) / recipe.warmup_steps, max(0.01, left))


def losses(model, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted loss and the plain loss on the answer tokens (nats)."""
    with torch.autocast(ids.device.type, torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    nll = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    answers = weights == ANSWER_WEIGHT
    return (nll * weights).sum() / weights.sum(), nll[answers].mean()


def pretrain(recipe: Recipe, suffixes: Path, out: Path, device: str) -> None:
    """Build the tokenizer, train the network and save both as bfloat16 in the hub's folder layout.

    A long run resumes from `out`.state, written now and then, and removed at the end.
    """
    torch.manual_seed(recipe.seed)
    openings = seen_openings(suffixes)
    sample = itertools.islice(documents(recipe.seed, openings), recipe.tokenizer_documents)
    tokenizer = build_tokenizer(itertools.chain(map(render, sample), openings), recipe.vocab_size)
    training = Training(Path(f"{out}.state"), *start(recipe, tokenizer, device))
    first = training.resume()
    corpus = documents(recipe.seed + 1, openings, recipe.curriculum_steps * recipe.batch_size)
    source = batches(corpus, recipe.batch_size, random.Random(recipe.seed))
    tracked = enumerate(track(source, "pretraining", recipe.steps))
    recent: list[Tensor] = []
    for step, batch in itertools.islice(tracked, first, recipe.steps):
        ids, weights = (tensor.to(device) for tensor in encode(tokenizer, batch))
        recent.append(training.step(ids, weights, learning_rate(step, recipe)))
        if (step + 1) % REPORTED == 0:
            report(step + 1, recent, recipe)
            recent.clear()
        if (step + 1) % CHECKPOINT == 0:
            training.keep(step + 1)
    training.model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    training.file.unlink(missing_ok=True)


def start(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, device: str
) -> tuple[PreTrainedModel, torch.optim.Optimizer]:
    model = build_model(tokenizer, recipe.hidden_size, recipe.layers, recipe.window).to(device)
    # Short rows: a third faster than sdpa with a window mask on a CPU.
    model.set_attn_implementation("eager")
    return model, torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True
    )


class Training(NamedTuple):
    """The network with its optimiser, and the file that an interrupted run leaves."""

    file: Path
    model: PreTrainedModel
    optimizer: torch.optim.Optimizer

    def step(self, ids: Tensor, weights: Tensor, lr: float) -> Tensor:
        """Return the loss and the loss on the answers [2]."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        loss, answer_loss = losses(self.model, ids, weights)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return torch.stack([loss.detach(), answer_loss.detach()])

    def keep(self, step: int) -> None:
        states = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        with new_file(self.file) as new:
            torch.save(states | {"step": step}, new)

    def resume(self) -> int:
        """Return the step to begin with."""
        if not self.file.exists():
            return 0
        saved = torch.load(self.file, map_location=self.model.device, weights_only=True)
        self.model.load_state_dict(saved["model"])
        self.optimizer.load_state_dict(saved["optimizer"])
        return saved["step"]


def report(step: int, recent: list[Tensor], recipe: Recipe) -> None:
    mean, on_answers = torch.stack(recent).nanmean(0).tolist()
    if not math.isfinite(mean):
        said = f"the loss is {mean} at step {step}"
        raise RuntimeError(f"{said}: lower the learning rate ({recipe.lr})")
    print(f"step {step}: loss {mean:.3f}, on the answers {on_answers:.3f}", flush=True)
