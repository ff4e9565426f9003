"""Structured pruning of encoders: gates that learn what to remove, and the cut itself."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "cutting": ["cut", "sparsity_of"],
        "gates": ["PruningGates"],
        "kept_units": ["KeptUnits"],
        "settings": ["GateSettings"],
    },
)
