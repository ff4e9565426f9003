"""Registry of the encoder adapters, by the `model_type` of transformers."""

from __future__ import annotations

from typing import Any

from speaker_verification.common.errors import ParameterError
from speaker_verification.common.registry import TypeRegistry
from speaker_verification.models.encoders.base import EncoderAdapter
from speaker_verification.models.encoders.w2v_bert import W2vBertAdapter
from speaker_verification.models.encoders.wav2vec2_family import Wav2Vec2Adapter, WavLMAdapter

ENCODERS: TypeRegistry[type[EncoderAdapter]] = TypeRegistry(
    "encoder adapter",
    EncoderAdapter,
    {
        "wavlm": WavLMAdapter,
        "hubert": Wav2Vec2Adapter,
        "wav2vec2": Wav2Vec2Adapter,
        "wav2vec2-bert": W2vBertAdapter,
    },
)

AdapterChoice = str | type[EncoderAdapter] | None


def adapter_class(model_type: Any, adapter: AdapterChoice = None) -> type[EncoderAdapter]:
    """Adapter of an encoder.

    Args:
        model_type: family of the encoder, as transformers calls it.
        adapter: adapter class, or its registered or dotted name, in place of the family's own.

    Raises:
        ParameterError: the family has no adapter and none is given, or there is no adapter of the name.
    """
    if isinstance(adapter, str):
        return ENCODERS.find(adapter)
    if adapter is not None:
        return adapter
    if not isinstance(model_type, str) or model_type not in ENCODERS:
        raise ParameterError(
            f"model_type is '{model_type}': use one of {', '.join(ENCODERS)}, or name an adapter for it"
        )
    return ENCODERS[model_type]
