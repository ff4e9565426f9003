"""Classification heads, used in training only."""
