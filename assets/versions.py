"""Content digests as Dagster data versions: what was read, and what was made.

Dagster records "latest at step start" as the version of an input. Here each asset resolves the
digest of an input once, opens it by that digest, and says so.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from pedigree.errors import EvidenceMissing

DATA_VERSION = "dagster/data_version"
_RECENT = 50
_OF_TRAINING = ("fine_tuned_model", "model_evaluation", "model_attestation")


def find_digest(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext, *key: str
) -> str:
    """Return the digest of an asset: of this run's materialisation, else of the latest.

    Raises:
        EvidenceMissing: it was never materialised.
    """
    asset = dg.AssetKey(list(key))
    records = context.instance.fetch_materializations(asset, limit=_RECENT).records
    run_id = context.run.run_id
    mine = [record for record in records if record.run_id == run_id]
    for record in [*mine, *records]:
        event = record.asset_materialization
        version = (event.tags or {}).get(DATA_VERSION) if event else None
        if version:
            return version
    stage = "model" if asset.path[-1] in _OF_TRAINING else "checks"
    raise EvidenceMissing(
        f"{asset.to_user_string()} was never materialised here: materialise it first, with "
        f"`pedigree run --until {stage}` or in the Dagster UI."
    )


def materialised(
    digest: str,
    inputs: Mapping[str, str],
    metadata: Mapping[str, Any],
    asset: str | None = None,
) -> dg.MaterializeResult:
    """Return the result of an asset that read `inputs` (asset name: digest) and made `digest`."""
    return dg.MaterializeResult(
        asset_key=dg.AssetKey(asset.split("/")) if asset else None,
        data_version=dg.DataVersion(digest),
        tags={f"dagster/input_data_version/{name}": value for name, value in inputs.items()},
        metadata={"digest": digest, **metadata},
    )
