"""ONNX graph of a verifier's model, whose embeddings are the model's for waveforms of any length."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from speaker_verification.common.errors import DataError
from speaker_verification.deployment.onnx_export import export_onnx
from speaker_verification.models.encoders.configuration import build_encoder, configuration_of
from speaker_verification.models.pruning import cut
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.scoring import Calibration
from tests.support.pruning import random_units
from tests.support.tiny_models import TINY_LARGE, TINY_W2V_BERT, TINY_WAVLM, tiny_settings
from tests.support.verifiers import Measured

MODELS = {
    "wavlm, lap, astp": (TINY_WAVLM, {}),
    "large, weighted sum, mhfa, normalised": (
        TINY_LARGE,
        {"network": "mhfa", "aggregation": "weighted_sum", "waveform_normalisation": "always"},
    ),
    "wav2vec 2.0, ecapa": (TINY_WAVLM | {"model_type": "wav2vec2"}, {"network": "ecapa_tdnn"}),
    "W2V-BERT, adapter MFA, asp": (TINY_W2V_BERT, {"network": "asp", "aggregation": "adapter_mfa"}),
    "wavlm, cut": (TINY_WAVLM, {}),
    "W2V-BERT, cut": (TINY_W2V_BERT, {}),
}


def model_of(name: str) -> SpeakerModel:
    architecture, settings = MODELS[name]
    torch.manual_seed(0)
    encoder = build_encoder(configuration_of(dict(architecture), "", adapter=None), "", None)
    model = SpeakerModel(encoder, tiny_settings(architecture, **settings)).eval()
    if name.endswith("cut"):
        cut(model, random_units(model))
    return model


@pytest.mark.project
@pytest.mark.parametrize("name", MODELS)
def test_its_embeddings_are_the_model_s(measured: Measured, tmp_path: Path, name: str) -> None:
    verifier = replace(measured[0], model=model_of(name))
    session = onnxruntime.InferenceSession(str(export_onnx(verifier, tmp_path / "onnx")))
    rng = np.random.default_rng(0)
    tolerance = 5e-5 if "W2V-BERT" in name else 1e-5  # log-mel features are rounded before they are scaled
    for shape in ((1, 8000), (3, 24_001), (1, verifier.model.minimum_samples)):
        waveforms = (0.1 * rng.normal(size=shape) + 0.02).astype(np.float32)
        (found,) = session.run(["embeddings"], {"waveforms": waveforms})
        np.testing.assert_allclose(found, verifier.model.embed(waveforms).numpy(), atol=tolerance)
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["fingerprint"] == verifier.fingerprint
    assert metadata["sample_rate"] == "16000"
    assert Calibration.from_dict(json.loads(metadata["calibration"])) == verifier.calibration


@pytest.mark.project
@pytest.mark.parametrize("name", ["wavlm, cut", "W2V-BERT, cut"])
def test_an_int8_graph_points_where_the_model_does(measured: Measured, tmp_path: Path, name: str) -> None:
    verifier = replace(measured[0], model=model_of(name))
    exported = export_onnx(verifier, tmp_path / "onnx", int8=True)
    assert {path.name for path in exported.parent.iterdir()} == {"model.onnx", "model.int8.onnx"}
    session = onnxruntime.InferenceSession(str(tmp_path / "onnx" / "model.int8.onnx"))
    assert session.get_modelmeta().custom_metadata_map["fingerprint"] == verifier.fingerprint
    waveforms = (0.1 * np.random.default_rng(0).normal(size=(3, 24_001))).astype(np.float32)
    (found,) = session.run(["embeddings"], {"waveforms": waveforms})
    expected = verifier.model.embed(waveforms).numpy()
    assert not np.allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found, expected, atol=0.02 * np.abs(expected).max())


class Branching(torch.nn.Module):
    """A module that asks for a value, which no graph can hold."""

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        return waveforms if waveforms.sum() > 0 else -waveforms


def test_an_encoder_that_cannot_be_exported_is_refused_and_leaves_nothing(
    measured: Measured, tmp_path: Path
) -> None:
    model = model_of("wavlm, lap, astp")
    model.frontend.encoder.feature_extractor = Branching()
    with pytest.raises(DataError, match=r"the encoder \(wavlm\) cannot be exported to ONNX"):
        export_onnx(replace(measured[0], model=model), tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_a_folder_of_other_files_is_kept(measured: Measured, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep\n")
    with pytest.raises(DataError, match="holds other files than an export"):
        export_onnx(measured[0], tmp_path)


def test_plain_pooling_and_biases_are_those_of_the_model() -> None:
    """Operations that a graph has in place of the model's own, beside these."""
    model = model_of("wavlm, lap, astp")
    waveforms = 0.1 * torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        own = model(waveforms)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.compiler, "is_exporting", lambda: True)
            plain = model(waveforms)
    torch.testing.assert_close(plain, own, rtol=0, atol=1e-6)


def test_what_is_not_installed_is_named(
    measured: Measured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speaker_verification.deployment.onnx_export.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"onnx is not installed: pip install 'speaker-verification\[onnx\]'"):
        export_onnx(measured[0], tmp_path / "onnx")
