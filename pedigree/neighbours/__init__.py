"""Near-duplicate texts: the engine that the split, leakage and label conflicts share."""
