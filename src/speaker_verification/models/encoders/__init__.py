"""Self-supervised encoders: configurations, checkpoints and attention."""
