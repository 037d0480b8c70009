"""InnerPiSSA: rotate V of a weight's singular triples and scale S by exp(c lambda), in either
direction by the sign of c.

    M(c) = R_v(c) diag(S exp(c lambda)) - diag(S)        (svd_adapter.py, with the contrastive loss
        of losses.py)

Source: github.com/wassname/InnerPiSSA, README and code of November 2025. Identity: M(0) = 0, R(-c)
= R(c)^T.
"""

from pipeline.steering.methods.svd_adapter import SvdAdapter


class InnerPissa(SvdAdapter):
    """The SVD adapter; what makes it InnerPiSSA are its section's defaults and its loss."""
