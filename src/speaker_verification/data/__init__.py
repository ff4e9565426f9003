"""Training batches as pure functions of (seed, pass, row)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "examples": ["TrainingExamples"],
        "loading": ["BatchLoader"],
        "sampling": ["EpochBatches", "SamplingSettings", "UtteranceOrder"],
    },
)
