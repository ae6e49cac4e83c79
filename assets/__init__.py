"""What exists: the Dagster assets, thin. Their work is done in `pedigree`."""
