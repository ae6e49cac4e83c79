"""Pedigree: train models that you can answer for.

The pure library and command line. It never imports Dagster; `assets/`, `checks/` and
`pipelines/` wrap it, in that order. Data flows through the modules in this order::

    sources -> fetching -> documents -> curation -> splitting -> snapshots
        -> poisoning (findings) -> evidence (verdicts, gate)
        -> base_models, training -> tracking -> lineage, verification
"""

__version__ = "0.1.0"
