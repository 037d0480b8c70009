"""AntiPaSTO, InnerPiSSA's successor: rotate V within an angle bound and shift S by c delta.

    M(c) = R_v(c) diag(S + c delta) - diag(S)

This is InnerPiSSA's adapter (innerpissa.py) with other choices in its section, and the loss of
training/antiparallel.py. Identity: the change of S is odd in c, and so is the rotation's generator.
The source bounds each entry of A, which bounds no plane angle (`angle_bound: elementwise`). The
default bounds the angle.

Source: arXiv 2601.07473 and its code of 2026-02-08.
"""

from pipeline.steering.base import Look
from pipeline.steering.methods.innerpissa import InnerPissa


class AntiPasto(InnerPissa):
    label = "AntiPaSTO"
    source = "AntiPaSTO, M. J. Clark, https://arxiv.org/abs/2601.07473"
    look = Look("#D55E00", "s")
