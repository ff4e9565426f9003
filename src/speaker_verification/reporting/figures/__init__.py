"""Figures of evaluations and of training, for Plotly."""
