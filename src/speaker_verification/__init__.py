"""Speaker verification with self-supervised encoders."""

__version__ = "0.1.0"
