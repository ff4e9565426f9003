"""The parameters tree, its loader, and what a corpus makes impossible."""
