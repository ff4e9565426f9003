"""Configuration: parameters tree, loader with recipes, run options, and feasibility on a corpus."""
