"""`python -m pipeline behaviour`: a behaviour from two words, as a file of data/raw/behaviours."""

import json

from pipeline.study.behaviours import Behaviour
from pipeline.study.params import check_id
from pipeline.support.errors import InputError
from pipeline.support.files import write_text
from pipeline.support.paths import behaviour_file
from pipeline.support.section import parse

TEMPLATE = "Pretend you're {persona} person."
TEXT = """\
# Behaviour: {name}. c = +1 is the positive persona.
template: {template}
# Positive, negative. They differ in these words only; further pairs vary the wording.
personas:
- {personas}
# Optional, as in honesty.yaml. probes: without them no sign is decided. targets: without one no
# effect is measured. engineered: the prompts of the method prompting_engineered.
"""


def main(name: str, positive: str, negative: str, force: bool) -> None:
    try:
        check_id(name)
    except ValueError as error:
        raise InputError(str(error)) from None
    file, personas = behaviour_file(name), [positive, negative]
    parse(Behaviour, {"template": TEMPLATE, "personas": [personas]}, file)
    if file.exists() and not force:
        raise InputError(f"{file} exists: take another name, or --force to replace it")
    pair = json.dumps(personas, ensure_ascii=False)
    text = TEXT.format(name=name, template=TEMPLATE, personas=pair)
    write_text(file, text)
    print(
        f"{file} is written; a study with free texts: dvc exp run -S behaviour={name} "
        "-S generation.coherence_tokens=64"
    )
