"""model: a model id -> models/base/manifest.json, which says for ever which weights it meant."""

from pipeline.lm.load import describe
from pipeline.stages.stage import stage
from pipeline.support.files import write_json
from pipeline.support.paths import MANIFEST


def main() -> None:
    with stage("model") as (params, run):
        manifest = describe(params.model, params.models[params.model], params.quantisation)
        run.log({key: manifest[key] for key in ("layers", "hidden_size", "vocab_size")})
        write_json(MANIFEST, manifest)
        run.record(MANIFEST.parent)
