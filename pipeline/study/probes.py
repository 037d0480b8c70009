"""The probes of a behaviour for a model: its file's questions, or those of the synthetic world."""

from pipeline.lm.base import Base
from pipeline.reference.probes import plain_probes
from pipeline.reference.world import persona_traits
from pipeline.steering.sign import Asked, Probe, ask_personas
from pipeline.study.behaviours import Behaviour

WORLD = "reference"  # the bundled model: it knows the world's plain questions and no other ones
INSTRUCTION = "Answer Yes or No."


def probes_of(behaviour: Behaviour, name: str, model: str) -> list[Probe]:
    """Return the probes of the behaviour called `name`; empty where it has none."""
    if model == WORLD:
        return plain_probes(name) if name in persona_traits() else []
    if not behaviour.probes:
        return []
    sides = ((behaviour.probes.yes, True), (behaviour.probes.no, False))
    return [Probe(f"{one} {INSTRUCTION}", yes) for side, yes in sides for one in side]


def ask(base: Base, behaviour: Behaviour, name: str, model: str) -> Asked | None:
    """Return what the base makes of the behaviour's probes; None where it has none."""
    probes = probes_of(behaviour, name, model)
    return ask_personas(base, probes, behaviour.sentences()) if probes else None
