"""model: a model id -> models/base/manifest.json, which says for ever which weights it meant."""

from pipeline.lm.load import describe
from pipeline.stages.stage import stage
from pipeline.support.files import new_folder, write_json
from pipeline.support.paths import MANIFEST

WEIGHTS = "weights"  # beside the manifest: what a GGUF file holds, dequantised


def main() -> None:
    with stage("model") as (params, run), new_folder(MANIFEST.parent) as new:
        section = params.models[params.model]
        manifest = describe(params.model, section, params.quantisation, new / WEIGHTS)
        if (new / WEIGHTS).exists():
            manifest["folder"] = str(MANIFEST.parent / WEIGHTS)
        run.log({key: manifest[key] for key in ("layers", "hidden_size", "vocab_size")})
        write_json(new / MANIFEST.name, manifest)
        run.record(new)
