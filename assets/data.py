"""Data assets: documents of each source, curated documents, training and evaluation snapshots."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
import pydantic

from assets.launchpad import as_config, read_config
from assets.metadata import describe_snapshot, draw_funnel, tabulate
from assets.resources import NeighbourResource, ProjectResource
from assets.versions import find_digest, materialised
from pedigree.checks import NEIGHBOURS, digest_code
from pedigree.dataset import FrozenData, curate_sources, freeze_split, ingest_source
from pedigree.params import CurationParams, SplitParams
from pedigree.sources import Source

OWNERS = ["team:data-engineering"]


def build_raw_documents(source: Source) -> dg.AssetsDefinition:
    """Return the asset of one source's documents, as fetched, verified and parsed."""

    @dg.asset(
        key=["raw_documents", source.id],
        group_name="sources",
        kinds={"python", "parquet"},
        owners=OWNERS,
        tags={"pedigree/zone": source.zone, "pedigree/kind": source.kind},
        code_version=digest_code("fetching.py", "archives.py", "documents.py", "snapshots.py"),
        description=f"{source.title or source.id}. Fetched from {source.uri}, pinned to sha256 "
        f"{source.sha256}, and parsed as declared in sources/{source.id}.yaml.",
    )
    def raw_documents(
        context: dg.AssetExecutionContext, project: ProjectResource
    ) -> dg.MaterializeResult:
        ingested = ingest_source(project.open(), source, project.now())
        return materialised(
            ingested.documents.digest,
            {},
            {
                **describe_snapshot(ingested.documents),
                "uri": source.uri,
                "sha256": ingested.fetched.sha256,
                "revision": ingested.fetched.revision,
                "fetched_at": ingested.fetched.fetched_at,
                "licence": source.licence,
                "owner": source.owner,
                "label_batch": source.label_batch or "UNKNOWN",
                "labels": tabulate([ingested.by_label]),
            },
        )

    return raw_documents


def build_curated_documents(
    sources: dict[str, Source], params: CurationParams
) -> dg.AssetsDefinition:
    """Return the asset of all documents that may be learned from."""
    documents = pydantic.Field(
        default={}, description="source: digest of its documents; default: what was fetched last"
    )
    config_class = pydantic.create_model(
        "CurationConfig",
        __base__=as_config("CurationParams", params),
        documents=(dict[str, str], documents),
    )

    @dg.asset(
        deps=[["raw_documents", source] for source in sources],
        group_name="curation",
        kinds={"python", "parquet"},
        owners=OWNERS,
        code_version=digest_code("dataset.py", "curation.py", "exclusions.py", "snapshots.py"),
        description="Documents in Unicode normal form beside their raw text, without exact "
        "duplicates; each dropped row is accounted for with its reason.",
    )
    def curated_documents(
        context: dg.AssetExecutionContext,
        config: config_class,  # pyright: ignore[reportInvalidTypeForm]
        project: ProjectResource,
    ) -> dg.MaterializeResult:
        chosen = read_config(config, CurationParams)
        raw = config.documents or {
            source: find_digest(context, "raw_documents", source) for source in sources
        }
        curated = curate_sources(project.open(), chosen, raw)
        read = raw.keys() - set(chosen.exclude_sources)
        return materialised(
            curated.documents.digest,
            {f"raw_documents/{source}": raw[source] for source in sorted(read)},
            {
                **describe_snapshot(curated.documents),
                "dropped": curated.outcome.dropped.num_rows,
                "funnel": draw_funnel(curated.outcome.funnel()),
                "by_source": tabulate(curated.outcome.by_source()),
            },
        )

    return curated_documents


def build_snapshots(params: SplitParams) -> dg.AssetsDefinition:
    """Return the two assets that one split freezes, each in its own storage root."""
    config_class = as_config("SplitConfig", params)

    def describe(zone: str) -> dg.AssetSpec:
        return dg.AssetSpec(
            f"{zone}_snapshot",
            deps=["curated_documents"],
            group_name="snapshots",
            kinds={"parquet", "dvc"},
            owners=OWNERS,
            tags={"pedigree/zone": zone},
            code_version=digest_code("dataset.py", "splitting.py", *NEIGHBOURS),
            description=f"The {zone} rows: frozen, named by a Merkle root over row ids, under DVC. "
            "Near-duplicates never lie on both sides of the split.",
        )

    @dg.multi_asset(specs=[describe("training"), describe("evaluation")])
    def snapshots(
        context: dg.AssetExecutionContext,
        config: config_class,  # pyright: ignore[reportInvalidTypeForm]
        project: ProjectResource,
        neighbours: NeighbourResource,
    ) -> Iterator[dg.MaterializeResult]:
        curated, place = find_digest(context, "curated_documents"), project.open()
        find = neighbours.finder(context, place)
        sides = freeze_split(place, read_config(config, SplitParams), curated, find)
        for zone, frozen in zip(("training", "evaluation"), sides, strict=True):
            yield materialised(
                frozen.snapshot.digest,
                {"curated_documents": curated},
                _describe_frozen(frozen),
                f"{zone}_snapshot",
            )

    return snapshots


def _describe_frozen(frozen: FrozenData) -> dict[str, Any]:
    return {
        **describe_snapshot(frozen.snapshot),
        "dvc_md5": frozen.pointer.md5,
        "dvc_pointer": f"{frozen.pointer.path}.dvc",
        "by_source": tabulate(frozen.by_source),
    }
