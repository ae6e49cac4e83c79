"""The jobs that people launch, from the UI or with `pedigree run`."""

import dagster as dg

from assets.release import ENVIRONMENT
from pipelines.promotion import promote

_DATA = dg.AssetSelection.groups("sources", "curation", "snapshots")
_MODEL = dg.AssetSelection.groups("models") | dg.AssetSelection.assets("model_attestation")

JOBS = [
    dg.define_asset_job(
        "ingest",
        _DATA.without_checks(),
        description="Fetch, curate and freeze the data, without judging it.",
    ),
    dg.define_asset_job(
        "ingest_and_check",
        _DATA,
        description="Fetch, curate and freeze the data, and judge it.",
    ),
    dg.define_asset_job(
        "fine_tune",
        _MODEL,
        description="Train on the frozen data as it is; refused unless its verdicts stand.",
    ),
    dg.define_asset_job(
        "retrain",
        _DATA | _MODEL,
        description="From the sources to an attested model.",
    ),
    dg.define_asset_job(
        "release",
        dg.AssetSelection.assets(f"{ENVIRONMENT}_model"),
        description=f"Give the newest attested model to {ENVIRONMENT}, if the policy lets it.",
    ),
    promote,
]
