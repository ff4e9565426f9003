"""A VoxCeleb-shaped mirror of synthetic speakers."""
