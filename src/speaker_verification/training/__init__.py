"""One training loop for all phases; a phase is data."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "checkpoints": ["best_checkpoint"],
        "examples": ["EpochBatches", "TrainingExamples"],
        "loop": ["TrainingError", "train"],
        "phase": ["PhaseSettings"],
        "start": ["start_phase"],
        "validation": ["TrialSet", "validate"],
    },
)
