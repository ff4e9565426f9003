"""Frontend, layer aggregation, speaker network, margin head, and the speaker model made of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "frontend": ["load_encoder", "save_encoder"],
        "heads": ["HeadSettings", "build_head"],
        "heads.aam_softmax": ["SubcentreMarginHead"],
        "heads.base": ["Head", "HeadOutput", "Margins"],
        "importing.original_wavlm": ["import_encoder"],
        "importing.public_checkpoints": ["import_checkpoint", "import_margin_head"],
        "settings": ["FrontendSettings", "ModelSettings"],
        "speaker_model": ["SpeakerModel"],
    },
)
