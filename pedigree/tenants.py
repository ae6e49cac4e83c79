"""Tenants: whose data went into a model, and so for whom it may be used.

A source, base model or adapter that a client supplied carries the client's name. What is made of it
carries it too: snapshots, adapters and merges. A model that carries a tenant goes to that tenant
alone, and one that carries two goes to nobody::

    >>> [one.tenant for one in find_carriers(store, record)]
    ['acme']
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from pedigree.evidence.store import EvidenceStore
from pedigree.training.record import TrainingRecord


@dataclass(frozen=True)
class Carrier:
    """What brought a tenant into a model."""

    tenant: str
    what: str


def find_carriers(store: EvidenceStore, record: TrainingRecord) -> list[Carrier]:
    """Return everything with a tenant that a model was made of, by what statements say.

    All statements about a snapshot count, not just the newest: a source's declaration that lost its
    tenant later does not free what was frozen before.
    """
    carriers: dict[tuple[str, str], Carrier] = {}
    snapshot = record.inputs.training.digest
    for statement in store.about(snapshot, "snapshot")[0]:
        for part in cast(list[dict[str, Any]], statement.predicate.get("tenants", [])):
            what = f"{part['rows']} rows of source {part['source']} in snapshot {snapshot[:19]}…"
            carrier = Carrier(str(part["tenant"]), what)
            carriers[carrier.tenant, str(part["source"])] = carrier
    outside = {"base-model": record.inputs.base.digest, "adapter": record.adapter_digest}
    for kind, digest in outside.items():
        for statement in store.about(digest, kind)[0] if digest else ():
            tenant = statement.predicate.get("tenant")
            if tenant:
                what = f"the {kind.replace('-', ' ')} {digest}"
                carriers[str(tenant), what] = Carrier(str(tenant), what)
    return [carriers[key] for key in sorted(carriers)]


def find_tenant_problems(carriers: Sequence[Carrier], tenant: str | None) -> list[str]:
    """Return why a model with these carriers cannot go to `tenant` (None: to all)."""
    to = f"tenant {tenant}" if tenant else "all tenants"
    return [
        f"it carries data of tenant {one.tenant} ({one.what}) and would go to {to}"
        for one in carriers
        if one.tenant != tenant
    ]
