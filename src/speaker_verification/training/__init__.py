"""One training loop for all phases; a phase is data."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "failures": ["TrainingError"],
        "kept_epochs": ["best_checkpoint"],
        "loop": ["TrainingLoop"],
        "phase": ["PhaseSettings"],
        "regularisation": ["PretrainedDistance"],
        "resume": ["RunFingerprint", "is_interrupted", "resume_path"],
        "run": ["PhaseJob", "PhaseTables", "run_phase"],
        "start": ["start_from_model", "start_phase"],
        "validation": ["TrialSet", "validate"],
    },
)
