"""One training loop for all phases; a phase is data."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "checkpoints": ["best_checkpoint"],
        "figures": ["schedule_figure"],
        "failures": ["TrainingError"],
        "loop": ["train"],
        "phase": ["PhaseSettings"],
        "regularisation": ["PretrainedDistance"],
        "resume": ["Origin", "is_interrupted", "resume_path"],
        "start": ["start_phase"],
        "validation": ["TrialSet", "validate"],
    },
)
