"""model: a model id -> models/base/manifest.json, which says for ever which weights it meant."""

from pipeline.files import write_json
from pipeline.lm.load import describe
from pipeline.paths import MANIFEST
from pipeline.stages.stage import stage


def main() -> None:
    with stage("model") as (params, run):
        manifest = describe(params["model"], params[f"models.{params['model']}"], params["quantization"])
        run.log({key: manifest[key] for key in ("layers", "hidden_size", "vocab_size")})
        write_json(MANIFEST, manifest)
        run.record(MANIFEST.parent)
