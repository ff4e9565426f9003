"""Regularisation of an encoder: that of a phase, else that of the model, else that of its checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from speaker_verification.common.errors import ParameterError
from speaker_verification.models.encoder_settings import RegularisationSettings
from speaker_verification.models.encoders.regularisation import phase_regularisation
from speaker_verification.models.encoders.wav2vec2_family import Wav2Vec2Adapter
from speaker_verification.models.frontend import load_encoder, save_encoder
from speaker_verification.models.speaker_model import SpeakerModel
from tests.support.tiny_models import TINY_W2V_BERT, TINY_WAVLM, tiny_settings

OWN = {"hidden_dropout": 0.1, "attention_dropout": 0.2, "activation_dropout": 0.3, "feat_proj_dropout": 0.4}
OWN |= {"layerdrop": 0.05, "mask_time_prob": 0.0, "apply_spec_augment": True}


def options_of(folder: Path, of_model: dict[str, float], **of_phase: float) -> dict[str, Any]:
    settings = tiny_settings(TINY_WAVLM, regularisation=of_model)
    return phase_regularisation(RegularisationSettings(**of_phase), settings.frontend, folder)


def test_options_are_those_of_the_phase_then_of_the_model_then_of_the_encoder(tmp_path: Path) -> None:
    save_encoder(tiny_settings(TINY_WAVLM | OWN).frontend, tmp_path, seed=1)
    assert options_of(tmp_path, {}) == OWN
    assert options_of(tmp_path, {"layer_drop": 0.5}) == OWN | {"layerdrop": 0.5}
    assert options_of(tmp_path, {"layer_drop": 0.5}, layer_drop=0.0) == OWN | {"layerdrop": 0.0}
    dropouts = dict.fromkeys([name for name in OWN if name.endswith("dropout")], 0.25)
    assert options_of(tmp_path, {"layer_drop": 0.5}, dropout=0.25) == OWN | dropouts | {"layerdrop": 0.5}


def test_a_saved_model_has_its_own_whatever_settings_it_began_with(tmp_path: Path) -> None:
    save_encoder(tiny_settings(TINY_WAVLM | OWN).frontend, tmp_path / "encoder", seed=1)
    settings = tiny_settings(TINY_WAVLM, regularisation={"layer_drop": 0.5})
    SpeakerModel.from_encoder(tmp_path / "encoder", settings, {"layerdrop": 0.75}).save_pretrained(tmp_path)
    assert options_of(tmp_path, {"layer_drop": 0.5}) == OWN | {"layerdrop": 0.75}
    assert options_of(tmp_path, {"layer_drop": 0.5}, layer_drop=0.0) == OWN | {"layerdrop": 0.0}


def test_a_share_of_masked_frames_switches_time_masks_on(tmp_path: Path) -> None:
    """W2V-BERT 2.0 is published with a share of 0.05 that is switched off."""
    frontend = tiny_settings(TINY_W2V_BERT | {"mask_time_prob": 0.05}).frontend
    save_encoder(frontend, tmp_path, seed=1)
    unmasked = phase_regularisation(RegularisationSettings(mask_time_probability=0.0), frontend, tmp_path)
    assert (unmasked["mask_time_prob"], unmasked["apply_spec_augment"]) == (0.0, False)
    masked = phase_regularisation(RegularisationSettings(mask_time_probability=0.3), frontend, tmp_path)
    assert (masked["mask_time_prob"], masked["apply_spec_augment"]) == (0.3, True)
    loaded = load_encoder(tmp_path, RegularisationSettings(mask_time_probability=0.3))
    assert (loaded.config.mask_time_prob, loaded.config.apply_spec_augment) == (0.3, True)


def test_dropout_of_w2v_bert_is_that_of_its_convolutions_too(tmp_path: Path) -> None:
    frontend = tiny_settings(TINY_W2V_BERT).frontend
    save_encoder(frontend, tmp_path, seed=1)
    options = phase_regularisation(RegularisationSettings(dropout=0.25), frontend, tmp_path)
    encoder = load_encoder(tmp_path, options=options)
    assert {part.p for part in encoder.modules() if isinstance(part, torch.nn.Dropout)} == {0.25}
    assert options["conformer_conv_dropout"] == 0.25


class WithoutLayerDrop(Wav2Vec2Adapter):
    regularisation: ClassVar[dict[str, tuple[str, ...]]] = {"dropout": ("hidden_dropout",)}


def test_an_option_that_the_encoder_lacks_is_named_by_its_parameter(encoder_folder: Path) -> None:
    adapter = f"{__name__}.{WithoutLayerDrop.__name__}"
    frontend = tiny_settings(TINY_WAVLM, adapter=adapter).frontend
    with pytest.raises(ParameterError, match=r"^parameter 'regularisation\.layer_drop' is 0\.1: .*null"):
        phase_regularisation(RegularisationSettings(layer_drop=0.1), frontend, encoder_folder)
    frontend = tiny_settings(TINY_WAVLM, adapter=adapter, regularisation={"layer_drop": 0.2}).frontend
    with pytest.raises(ParameterError, match=r"'model\.frontend\.regularisation\.layer_drop' is 0\.2: "):
        phase_regularisation(RegularisationSettings(dropout=0.1), frontend, encoder_folder)
