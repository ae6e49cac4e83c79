"""The default IO manager: tables as Parquet. Pedigree's own assets return digests, not tables.

Dagster's own default would pickle whatever an asset returns. Here a table is written as Parquet
and anything else is refused. Each zone has a storage root, named by the asset's tag
`pedigree/zone`, and an asset reads only what its own zone may see; without a tag it trains.
"""

import uuid
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pedigree.errors import PedigreeError
from pedigree.zones import require_readable

ZONE = "pedigree/zone"


class ParquetIOManager(dg.ConfigurableIOManager):
    """Store pandas and Arrow tables as Parquet below `folder`/<zone>; load them as Arrow tables."""

    folder: str

    def handle_output(self, context: dg.OutputContext, obj: object) -> None:
        """Write a table, whole or not at all."""
        table: Any = pa.Table.from_pandas(obj) if isinstance(obj, pd.DataFrame) else obj
        if not isinstance(table, pa.Table):
            raise PedigreeError(
                f"{context.get_identifier()} returned {type(obj).__name__}: expected a pandas or "
                "Arrow table (nothing is pickled), or a MaterializeResult."
            )
        path = self._path(context)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".partial-{uuid.uuid4().hex}")
        pq.write_table(table, partial)
        partial.replace(path)
        context.add_output_metadata({"path": str(path), "dagster/row_count": table.num_rows})

    def load_input(self, context: dg.InputContext) -> pa.Table:
        """Read the table that an upstream asset wrote.

        Raises:
            GateClosed: the asset that asks may not see the zone of what it asks for.
        """
        path = self._path(context)
        if context.has_asset_key:
            zone = _zone_of(context.step_context.job_def, context.asset_key)
            # A check compares zones and makes nothing, so it names no asset here.
            for reader in context.step_context.get_output_asset_keys():
                step = _zone_of(context.step_context.job_def, reader)
                require_readable(zone, context.asset_key.to_user_string(), step)
        return pq.read_table(path)

    def _path(self, context: dg.OutputContext | dg.InputContext) -> Path:
        if not context.has_asset_key:
            return (
                Path(self.folder)
                .joinpath("runs", *context.get_identifier())
                .with_suffix(".parquet")
            )
        zone = _zone_of(context.step_context.job_def, context.asset_key)
        return Path(self.folder).joinpath(zone, *context.asset_key.path).with_suffix(".parquet")


def _zone_of(job: dg.JobDefinition, key: dg.AssetKey) -> str:
    """Return the zone of an asset; one that does not say is for training, the strictest."""
    layer = job.asset_layer
    return layer.get(key).tags.get(ZONE, "training") if layer.has(key) else "training"
