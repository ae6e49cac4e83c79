"""What must be true: the Dagster asset checks, thin. They block, and leave signed verdicts."""
