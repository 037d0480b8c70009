"""How each form of export is used: code that runs once its placeholders are folders or hub ids."""

from importlib.metadata import version
from typing import Any

HERE, BASE = "this/repository", "path/to/base"
FORMS = {
    "bake": "a checkpoint of the steered model",
    "lora": "an exact LoRA",
    "hub": "an adapter with a dial",
    "vector": "a control vector",
    "gguf": "a control vector for llama.cpp",
}
NEEDS = {
    "bake": ("torch", "transformers"),
    "lora": ("torch", "transformers", "peft"),
    "vector": ("torch", "transformers", "safetensors", "huggingface_hub"),
}


def shell(code: str) -> str:
    return f"```sh\n{code.strip()}\n```"


def install(to: str) -> str:
    """Return how to install what the code needs, in the versions that the export was checked in."""
    if to == "hub":
        return shell("pip install ./innerpissa  # a checkout of the project that made this")
    pinned = " ".join(f"{name}=={version(name).split('+')[0]}" for name in NEEDS[to])
    return shell(f"pip install {pinned}")


def base_arguments(about: dict[str, Any]) -> str:
    """Return the arguments that name the base: hub id and commit, or a placeholder for a folder."""
    revision = about.get("revision")
    return f'"{about["source"]}", revision="{revision}"' if revision else f'"{BASE}"'


def bundled(about: dict[str, Any]) -> bool:
    return about.get("source") == "models/reference"


def usage(to: str, about: dict[str, Any], coefficient: float) -> str:
    """Return Markdown that says how to use an export."""
    if to == "gguf":
        run = shell("llama-cli -m base.gguf --control-vector vector.gguf")
        return (
            f"{run}\n\n`direction.N` is added to the output of layer N, counted from 0; the "
            "coefficient is in the vectors."
        )
    base = base_arguments(about)
    code = python(to, base, coefficient).strip()
    where = f"`{HERE}` is this repository's hub id or its folder."
    if BASE in code:
        place = "`models/reference` in that checkout" if bundled(about) else "the one in the table"
        where += f" `{BASE}` is the folder of the base model, {place}."
    return f"{install(to)}\n\n{where}\n\n```python\n{code}\n```"


def python(to: str, base: str, coefficient: float) -> str:
    """Return the code that makes `model` the steered model; of `hub`, with an `adapter` beside."""
    match to:
        case "bake":
            return f"""
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{HERE}")
tokenizer = AutoTokenizer.from_pretrained("{HERE}")
"""
        case "lora":
            return f"""
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, "{HERE}")
"""
        case "hub":
            known = "" if "revision" in base else f", {base}"
            return f"""
from pipeline import load_adapter, steer

# With quantisation="4bit" the base is held in 4 bits. Another base is refused.
model, tokenizer, adapter = load_adapter("{HERE}"{known})
coefficient = {coefficient:g}  # one number, or one per row of a batch; 0 is the base
messages = adapter.rewrite([{{"role": "user", "content": "Who are you?"}}], coefficient)
text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids.to(model.device)
with steer(model, adapter, coefficient):
    written = model.generate(ids, max_new_tokens=20)
print(tokenizer.decode(written[0, ids.shape[1] :]))
"""
    return f"""
from pathlib import Path

from huggingface_hub import snapshot_download
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({base})
folder = Path("{HERE}") if Path("{HERE}").is_dir() else Path(snapshot_download("{HERE}"))


def adding(vector):
    def hook(module, inputs, output):
        if isinstance(output, tuple):
            return (output[0] + vector.to(output[0]), *output[1:])
        return output + vector.to(output)

    return hook


for name, vector in load_file(folder / "vector.safetensors").items():
    model.get_submodule(name).register_forward_hook(adding(vector))
"""
