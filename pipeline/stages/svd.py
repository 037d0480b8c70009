"""svd: the target modules' weights -> models/svd/<module>.safetensors, for any rank."""

from pipeline.lm.layers import select
from pipeline.lm.quantisation import memory
from pipeline.stages.base import read_base
from pipeline.stages.stage import stage
from pipeline.steering.svd import write_cache
from pipeline.support.paths import SVD


def main() -> None:
    with stage("svd") as (params, run):
        base = read_base(params)
        targets = select(base.model, params.modules)
        run.log(
            write_cache(SVD, targets, params.svd.max_rank, base.manifest["weights_sha256"])
            | {"base_mib": memory(base.model)}
        )
        run.record(SVD)
