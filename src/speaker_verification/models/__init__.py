"""Frontend, layer aggregation, speaker network, margin head, and the speaker model made of them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "device": ["resolve_device"],
        "frontend": ["load_encoder", "save_encoder"],
        "margin_head": ["HeadOutput", "Margins", "SubcentreMarginHead"],
        "original_wavlm": ["import_encoder"],
        "public_checkpoints": ["import_checkpoint", "import_margin_head"],
        "settings": ["FrontendSettings", "MarginHeadSettings", "ModelSettings"],
        "speaker_model": ["SpeakerModel"],
    },
)
