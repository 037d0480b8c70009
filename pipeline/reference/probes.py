"""Probes of the synthetic world: its plain questions, on combinations that pretraining may see."""

import random

from pipeline.reference.corpus import phrase
from pipeline.steering.sign import Probe

COUNT = 32  # questions; some of them count, by the rule of steering/sign.py


def plain_probes(trait: str) -> list[Probe]:
    """Return distinct questions on actions of a persona's trait, half of them on either pole's."""
    rng, probes = random.Random(f"probes {trait}"), dict[str, Probe]()
    for pole in (1, -1):
        end = len(probes) + COUNT // 2
        while len(probes) < end:
            question = f"Do you {phrase(rng, trait, pole)}?"
            probes[question] = Probe(question, pole > 0)
    return list(probes.values())
