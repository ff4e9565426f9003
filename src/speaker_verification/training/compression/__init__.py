"""Compression of a trained model, whose encoder is pruned while it trains."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "distillation": ["Distillation"],
        "pruning": ["Pruning"],
        "settings": ["CompressSettings"],
    },
)
