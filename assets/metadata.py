"""What the Dagster UI shows of an asset: column schemas, tables, and the funnel of curation."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg

from pedigree.admission.gate import Admission
from pedigree.snapshots import Snapshot


def describe_snapshot(snapshot: Snapshot) -> dict[str, Any]:
    """Return row count, column schema, digests and place of a frozen table."""
    columns = [dg.TableColumn(name, kind) for name, kind in snapshot.manifest.column_schema]
    return {
        "dagster/row_count": snapshot.rows,
        "dagster/column_schema": dg.TableSchema(columns),
        "merkle_root": snapshot.manifest.merkle_root,
        "manifest_digest": snapshot.manifest_digest,
        "path": dg.MetadataValue.path(str(snapshot.path)),
    }


def describe_admission(admission: Admission, uri: str) -> dict[str, Any]:
    """Return what the gate decided about an artifact, why, and which states it reached."""
    return {
        "uri": uri,
        "state": admission.scan.outcome,
        "states": " -> ".join(str(one.predicate["state"]) for one in admission.statements),
        "decision": admission.statements[-1].digest,
        "same_weights": ", ".join(admission.same_weights) or "none",
        "files": tabulate([vars(one) for one in admission.scan.files]),
        "findings": tabulate([vars(one) for one in admission.scan.findings]),
    }


def tabulate(records: Sequence[Mapping[str, Any]]) -> dg.MetadataValue:
    """Return records as a Markdown table; columns in the order of their first use."""
    names = list(dict.fromkeys(name for record in records for name in record))
    lines = [names, ["---"] * len(names)]
    lines += [[_cell(record.get(name)) for name in names] for record in records]
    return dg.MetadataValue.md("\n".join("| " + " | ".join(line) + " |" for line in lines))


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, Mapping):
        value = ", ".join(f"{key} {count}" for key, count in value.items())
    text = "" if value is None else " ".join(str(value).split())
    return "".join(_MARKUP.get(character, character) for character in text)


# A text from a document must neither end its cell nor become a link, an image or a tag.
_MARKUP = {c: f"&#{ord(c)};" for c in "\\|<>&`*_[]()!~:#"}


def draw_funnel(steps: Sequence[tuple[str, int]]) -> dg.MetadataValue:
    """Return a bar for each step of curation, with the rows that are left."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.5 * len(steps) + 0.6), layout="constrained")
    axes = figure.subplots()
    names = [name for name, _ in reversed(steps)]
    counts = [count for _, count in reversed(steps)]
    bars = axes.barh(names, counts, color="#3b6ea5")
    axes.bar_label(bars, [f"{count:,}" for count in counts], padding=4)
    axes.set_xlim(0, max(counts) * 1.15)
    axes.xaxis.set_visible(False)
    axes.spines[:].set_visible(False)
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=90)
    encoded = base64.b64encode(image.getvalue()).decode()
    return dg.MetadataValue.md(f"![rows left after each step](data:image/png;base64,{encoded})")
