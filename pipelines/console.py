"""Dagster's events as a few readable lines on a terminal; errors are told once, at the end."""

import logging
import sys
from typing import Any

import dagster as dg
from tqdm import tqdm


class _OneLine(logging.Handler):
    """Write what an event means for a reader; leave out what only machines need."""

    def emit(self, record: logging.LogRecord) -> None:
        line = _describe(record)
        if line:
            tqdm.write(line, file=sys.stderr)


def _describe(record: logging.LogRecord) -> str | None:
    meta: dict[str, Any] = getattr(record, "dagster_meta", {})
    event = meta.get("dagster_event")
    if event is None and (record.levelno < logging.INFO or _is_framework(meta)):
        return None
    if event is None:
        return f"  {meta.get('orig_message', record.getMessage())}"
    if event.is_step_materialization:
        made = event.step_materialization_data.materialization
        digest = str(made.tags.get("dagster/data_version", ""))[:19]
        return f"materialised  {made.asset_key.to_user_string():<36} {digest}"
    if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        check = event.asset_check_evaluation_data
        outcome = "passed" if check.passed else check.severity.value
        line = f"check {outcome:<7} {check.asset_key.to_user_string()}: {check.check_name}"
        # An error's reason is told at the end; a warning's would be told nowhere.
        why = check.description if outcome == dg.AssetCheckSeverity.WARN.value else None
        return f"{line}\n              {' '.join(why.split())}" if why else line
    return None


def _is_framework(meta: dict[str, Any]) -> bool:
    """Tell whether Dagster itself says that a step waits for one that failed."""
    return str(meta.get("orig_message", "")).startswith("Dependencies for step")


def _make_logger(_: dg.InitLoggerContext) -> logging.Logger:
    logger = logging.Logger("pedigree.run", logging.DEBUG)  # events are logged at this level
    logger.addHandler(_OneLine())
    return logger


readable = dg.LoggerDefinition(_make_logger, {}, "A line an asset and a check, for a terminal.")
