"""The default IO manager: tables as Parquet. Pedigree's own assets return digests, not tables.

Dagster's own default would pickle whatever an asset returns. Here a table is written as Parquet
and anything else is refused.
"""

import uuid
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pedigree.errors import PedigreeError


class ParquetIOManager(dg.ConfigurableIOManager):
    """Store pandas and Arrow tables as Parquet below `folder`; load them as Arrow tables."""

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
        """Read the table that an upstream asset wrote."""
        return pq.read_table(self._path(context))

    def _path(self, context: dg.OutputContext | dg.InputContext) -> Path:
        parts = context.asset_key.path if context.has_asset_key else context.get_identifier()
        return Path(self.folder).joinpath(*parts).with_suffix(".parquet")
