"""Speaker verification with self-supervised encoders."""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={"deployment.verifier": ["Verifier"], "models.speaker_model": ["SpeakerModel"]},
)
