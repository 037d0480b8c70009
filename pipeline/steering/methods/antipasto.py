"""AntiPaSTO, InnerPiSSA's successor: rotate V within an angle bound and shift S by c delta.

    M(c) = R_v(c) diag(S + c delta) - diag(S)            (svd_adapter.py, with the anti-parallel
        loss of antiparallel.py)

Source: arXiv 2601.07473 and its code of 2026-02-08. Identity: the change of S is odd in c, and so
is the rotation's generator. The source bounds each entry of A, which bounds no plane angle
(`angle_bound: elementwise`); the default bounds the angle.
"""

from pipeline.steering.methods.svd_adapter import SvdAdapter


class AntiPasto(SvdAdapter):
    """The SVD adapter; what makes it AntiPaSTO are its section's defaults and its loss."""
