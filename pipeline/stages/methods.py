"""methods: each method id -> models/methods/<id>.json: its class, its section in full, and the
hashes of its code.

Cells depend on this file: DVC can look up neither the section that a variant names nor the file
that its class lives in.
"""

from pipeline.stages.stage import stage
from pipeline.steering import METHODS
from pipeline.study.code import code_hashes
from pipeline.support.files import new_folder, write_json
from pipeline.support.paths import METHOD_FILES


def main() -> None:
    with stage("methods") as (params, run), new_folder(METHOD_FILES) as new:
        names = dict.fromkeys([*params.methods, *params.baselines, params.composition.method])
        for name in names:
            section = params.steering[name]
            module = METHODS[section.method].code.partition(":")[0]
            write_json(
                new / f"{name}.json", {"section": section.model_dump(), "code": code_hashes(module)}
            )
        run.log({"methods": len(names)})
        run.record(new)
