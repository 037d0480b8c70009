"""code: hashes of what each stage, evaluation set and method runs -> models/code/<kind>/<id>.json.

Cells depend on these files and on no code. DVC knows neither which definitions a cell reaches nor
which section a variant names. A method's file holds its section of params.yaml in full too.
"""

from pipeline.evalsets import EVALSETS
from pipeline.stages.stage import stage
from pipeline.study.code import STAGES, Code, entry
from pipeline.support.files import new_folder, write_json
from pipeline.support.paths import CODE, code_file


def main() -> None:
    with stage("code") as (params, run), new_folder(CODE) as new:
        code = Code()
        sections = {
            name: params.steering[name]
            for name in [*params.methods, *params.baselines, params.composition.method]
        }
        for kind, names in (("stages", STAGES), ("evalsets", EVALSETS)):
            for name in names:
                content = {"code": code.hashes(entry(kind, name))}
                write_json(new / code_file(kind, name).relative_to(CODE), content)
        for name, section in sections.items():
            hashes = code.hashes(entry("methods", section.method))
            content = {"section": section.model_dump(), "code": hashes}
            write_json(new / code_file("methods", name).relative_to(CODE), content)
        run.log({"methods": len(sections)})
        run.record(new)
