"""Read an export back from disk as its card tells a stranger, in a process of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.app.export.card import BASE, HERE
from pipeline.support.errors import InputError


class Request(NamedTuple):
    """An export, and the base that its card's placeholder stands for."""

    folder: str
    base: str
    named: str
    """The base's arguments in the card."""
    coefficient: float
    dtype: str


def in_fresh_process(request: Request, inputs: dict[str, Tensor]) -> Tensor:
    """Return `logits` from a new process on the CPU; InputError where the card's code fails."""
    paths = [str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]
    settings = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "CUDA_VISIBLE_DEVICES": ""}
    environment = os.environ | settings
    with TemporaryDirectory() as place:
        save_file(inputs, f"{place}/inputs.safetensors")
        command = [sys.executable, "-m", "pipeline.app.export.reload", json.dumps(request), place]
        run = subprocess.run(
            command, capture_output=True, encoding="utf-8", errors="replace", env=environment
        )
        if run.returncode:
            why = (run.stderr.strip().splitlines() or ["it was killed, perhaps for memory"])[-1]
            said = f"the export does not load as its card says ({why[:200]})"
            raise InputError(f"{said}: take another form with --to")
        return load_file(f"{place}/logits.safetensors")["logits"]


@torch.no_grad()
def logits(request: Request, inputs: dict[str, Tensor]) -> Tensor:
    """Return logits [b, t, v] of what the card's code loads; of gguf, by llama.cpp's convention."""
    names = run_card(request)
    model = names["model"].eval()
    if not getattr(model, "is_quantized", False):
        model = model.to(getattr(torch, request.dtype))
    inputs = {key: tensor.to(model.device) for key, tensor in inputs.items()}
    if "adapter" not in names:
        return model(**inputs).logits.cpu()
    from pipeline.app.use import steer

    with steer(model, names["adapter"], request.coefficient):
        return model(**inputs).logits.cpu()


def run_card(request: Request) -> dict[str, Any]:
    """Execute the card's Python with its placeholders replaced; return the names that it makes."""
    card = (Path(request.folder) / "README.md").read_text(encoding="utf-8")
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    if code is None:
        return {"model": with_gguf(request)}
    whole = code[1].replace(request.named, f'"{BASE}"')
    whole = whole.replace(f'load_adapter("{HERE}")', f'load_adapter("{HERE}", "{BASE}")')
    for placeholder, path in ((HERE, request.folder), (BASE, request.base)):
        whole = whole.replace(f'"{placeholder}"', repr(path))
    names: dict[str, Any] = {}
    exec(whole, names)
    return names


def with_gguf(request: Request) -> torch.nn.Module:
    """Return the plain base with `direction.N` added to the output of layer N."""
    import gguf
    from transformers import AutoModelForCausalLM

    from pipeline.lm.layers import decoder_layers
    from pipeline.steering.direction import addition

    model = AutoModelForCausalLM.from_pretrained(request.base)
    for tensor in gguf.GGUFReader(f"{request.folder}/vector.gguf").tensors:
        layer = decoder_layers(model)[int(tensor.name.removeprefix("direction."))]
        layer.register_forward_hook(addition(torch.tensor(tensor.data), 1.0))
    return model


if __name__ == "__main__":
    request, place = Request(*json.loads(sys.argv[1])), sys.argv[2]
    read = logits(request, load_file(f"{place}/inputs.safetensors"))
    save_file({"logits": read.contiguous()}, f"{place}/logits.safetensors")
