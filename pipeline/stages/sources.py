"""sources: the local files that params.yaml names -> their hashes, so that DVC sees them change.

It runs at every `dvc repro`, because DVC knows no dependency whose path is a parameter.
"""

from pipeline.study.declared import stage_params
from pipeline.study.sources import fingerprint
from pipeline.support.files import write_json
from pipeline.support.paths import SOURCES


def main() -> None:
    params = stage_params("sources").view()
    model, evalset = params.models[params.model], getattr(params.evalsets, params.evalset)
    for name, source in (("model", model.source), ("evalset", getattr(evalset, "source", None))):
        write_json(SOURCES / f"{name}.json", {"source": source, "files": fingerprint(source)})
