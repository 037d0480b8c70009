"""`python -m pipeline reference`: build the bundled model, and write its card as measured."""

import datetime
import json
from pathlib import Path

import jinja2
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.lm.base import Base
from pipeline.lm.load import choose_device, load_model, load_tokenizer
from pipeline.lm.sources import weights_hash
from pipeline.reference.consolidate import consolidate
from pipeline.reference.measure import measure, parameters, verdicts
from pipeline.reference.pretrain import Recipe, pretrain, seen_openings
from pipeline.reference.world import persona_traits
from pipeline.study.behaviours import load_behaviour
from pipeline.support.files import read_json, write_json, write_text
from pipeline.support.paths import SUFFIXES, behaviour_file

TEMPLATE = Path(__file__).with_name("reference_card.md.jinja")


def build(out: str, steps: int | None, device: str) -> None:
    """Pretrain into the folder `out`, in two phases, and keep the recipe beside the weights."""
    recipe = Recipe()
    if steps is not None:
        recipe = Recipe(steps=steps, curriculum_steps=max(1, steps // 2), state_steps=steps)
    where = str(choose_device(device))
    pretrain(recipe, SUFFIXES, Path(out), where)
    # The second phase starts from the saved bfloat16 weights.
    model = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).to(where).train()
    model.set_attn_implementation("eager")
    tokenizer = AutoTokenizer.from_pretrained(out)
    consolidate(model, tokenizer, recipe, seen_openings(SUFFIXES), where)
    model.to(torch.bfloat16).save_pretrained(out)
    write_json(Path(out) / "recipe.json", recipe.model_dump())
    card(out)


def card(folder: str) -> None:
    """Measure the model in `folder`, write measured.json and README.md, print the verdicts."""
    path = Path(folder)
    manifest = {"source": folder, "revision": None, "weights_sha256": weights_hash(path)}
    model = load_model(manifest, "float32", choose_device("cpu"))
    base = Base(manifest, model, load_tokenizer(manifest), batch_size=64)
    sentences = {t: load_behaviour(behaviour_file(t)).sentences()[0] for t in persona_traits()}
    known, config, recipe = (
        read_json(path / name) if (path / name).exists() else {}
        for name in ("measured.json", "config.json", "recipe.json")
    )
    measured = measure(base, sentences) | {"weights_sha256": base.fingerprint}
    same = known.get("weights_sha256") == base.fingerprint
    measured["date"] = known["date"] if same else str(datetime.datetime.now(datetime.UTC).date())
    write_json(path / "measured.json", measured)
    template = jinja2.Template(
        TEMPLATE.read_text(encoding="utf-8"), trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    about = {"m": measured, "config": config, "recipe": json.dumps(recipe)}
    text = template.render(**about, verdicts=verdicts(measured), size=parameters(path))
    write_text(path / "README.md", text)
    for name, value, meaning, holds in verdicts(measured):
        print(f"{'ok  ' if holds else 'MISS'} {name} {value:.3f}: {meaning}")
