"""How each form of export is used: code that runs once the placeholder is a folder or a hub id."""

from typing import Any

HERE = "this/repository"
FORMS = {
    "bake": "a checkpoint of the steered model",
    "lora": "an exact LoRA",
    "hub": "an adapter with a dial",
    "vector": "a control vector",
    "gguf": "a control vector for llama.cpp",
}


def python(code: str) -> str:
    return f"```python\n{code.strip()}\n```"


def base_arguments(about: dict[str, Any]) -> str:
    """Return the arguments that name the base: hub id and commit, its folder, or a placeholder."""
    source = about.get("source") or about.get("model") or "the/base"
    return f'"{source}"' + (f', revision="{about["revision"]}"' if about.get("revision") else "")


def usage(to: str, about: dict[str, Any], coefficient: float) -> str:
    """Return Markdown that says how to use an export."""
    base = base_arguments(about)
    match to:
        case "bake":
            return python(f"""
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{HERE}")
tokenizer = AutoTokenizer.from_pretrained("{HERE}")
""")
        case "lora":
            return python(f"""
from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained({base})
model = PeftModel.from_pretrained(base, "{HERE}")
""")
        case "hub":
            return python(f"""
from pipeline import load_adapter, load_base, steer  # the innerpissa project

base = load_base({base})
adapter = load_adapter("{HERE}", base)  # refuses another base
with steer(base.model, adapter, {coefficient:g}):  # one coefficient, or one per row; 0 is the base
    ...  # base.model(...), base.model.generate(...)
""")
        case "vector":
            return python(f"""
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
""")
    return (
        "```sh\nllama-cli -m base.gguf --control-vector vector.gguf\n```\n\n"
        "`direction.N` is added to the output of layer N, counted from 0; the coefficient is in "
        "the vectors."
    )
