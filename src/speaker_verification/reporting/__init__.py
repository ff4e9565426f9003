"""Results for readers: figures, and pages that open from disk without a network."""
