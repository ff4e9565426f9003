"""Fixtures hold numbers of the public codes, kept by `python -m benchmarks.parity --fixtures FOLDER`.

Those of `PUBLIC_FILES` hold embeddings of the public classes of wespeaker and w2v-BERT-2.0_SV.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoConfig

from speaker_verification import SpeakerModel
from speaker_verification.common.errors import DataError
from speaker_verification.models import import_checkpoint, import_encoder, import_margin_head
from tests.support import public_systems as systems
from tests.support.public_systems import KEPT_LAP_SYSTEMS, LapSystem, read_fixture, write_lap

PUBLIC_FILES = [
    "ca_mhfa",
    "ca_mhfa_large",
    "wespeaker_mhfa",
    "w2v_bert_lora",
    "w2v_bert_pruned",
    "w2v_bert_wespeaker",
]


def write_slt22(folder: Path) -> tuple[Path, Path]:
    """State dict, and the original WavLM file that it began with."""
    shapes = read_fixture("slt22")["shapes"]
    pretrained = systems.draw_weights(shapes["wavlm"], systems.PRETRAINED_SEED)
    wavlm = systems.write_original_wavlm(folder / "WavLM.pt", systems.ORIGINAL_BASE, pretrained)
    torch.save(systems.draw_weights(shapes["model"], systems.SEED), folder / "slt22.model")
    return folder / "slt22.model", wavlm


def assert_as_public(ours: systems.Quantities, name: str) -> None:
    found, expected = systems.excerpt(ours), read_fixture(name)["expected"]
    for mode, bar in (("evaluation", 1e-5), ("training", 1e-8)):
        assert found[mode].keys() == expected[mode].keys()
        for quantity, values in expected[mode].items():
            scale = np.abs(values).max()
            np.testing.assert_allclose(
                found[mode][quantity], values, rtol=0, atol=bar * scale, err_msg=quantity
            )
    gradients = np.array(expected["gradients"])
    if not gradients.size:
        return
    norms = gradients[:, :1]
    sizes = np.array([[np.sqrt(ours.gradients[name].size)] for name in sorted(ours.gradients)])
    # The error of a projection is up to the length of its direction, the root of the number of weights.
    tolerance = (
        1e-8 * np.maximum(norms, 1e-6 * norms.max()) * [1, 1] * np.hstack([np.ones_like(sizes), sizes])
    )
    assert (np.abs(np.array(found["gradients"]) - gradients) <= tolerance).all()


@pytest.mark.parametrize("system", KEPT_LAP_SYSTEMS, ids=lambda system: system.name)
def test_lap_backends_give_the_numbers_of_the_public_code(system: LapSystem, tmp_path: Path) -> None:
    assert_as_public(systems.our_lap_quantities(write_lap(tmp_path, system)), system.name)


def test_slt22_gives_the_numbers_of_the_public_code(tmp_path: Path) -> None:
    assert_as_public(systems.our_slt22_quantities(*write_slt22(tmp_path)), "slt22")


def test_an_original_wavlm_of_the_large_type_gives_the_numbers_of_the_public_code(tmp_path: Path) -> None:
    weights = systems.draw_weights(
        read_fixture("original_wavlm_large")["shapes"]["wavlm"], systems.PRETRAINED_SEED
    )
    path = systems.write_original_wavlm(tmp_path / "WavLM.pt", systems.ORIGINAL_LARGE, weights)
    ours = systems.Quantities({"encoder": systems.our_last_state(path)}, {}, {})
    assert_as_public(ours, "original_wavlm_large")


@pytest.mark.parametrize("name", PUBLIC_FILES)
def test_models_of_wespeaker_and_of_w2v_bert_give_the_embeddings_of_the_public_code(
    name: str, tmp_path: Path
) -> None:
    waveforms, _ = systems.draw_batch()
    embeddings = import_checkpoint(systems.write_public_file(tmp_path, name)).embed(waveforms)
    assert_as_public(systems.Quantities({"embedding": embeddings.numpy()}, {}, {}), name)


@pytest.fixture
def lap_folder(tmp_path: Path) -> Path:
    return write_lap(tmp_path, KEPT_LAP_SYSTEMS[0])


@pytest.fixture
def slt22_file(tmp_path: Path) -> Path:
    return write_slt22(tmp_path)[0]


def change(path: Path, **changes: Tensor | None) -> None:
    """Replace weights of a state dict, or drop those that are None."""
    weights = torch.load(path, weights_only=True) | changes
    torch.save({name: value for name, value in weights.items() if value is not None}, path)


def test_an_experiment_folder_gives_its_best_epoch_and_an_epoch_folder_that_one(lap_folder: Path) -> None:
    name = "backend.speaker_network.emb_norm.bias"
    other = lap_folder / "7epoch" / "model.state"
    other.parent.mkdir()
    other.write_bytes((lap_folder / "12epoch" / "model.state").read_bytes())
    change(other, **{name: torch.full((10,), 7.0)})
    own = "speaker_network.embedding_norm.bias"
    best = import_checkpoint(lap_folder).state_dict()[own]
    assert torch.equal(best, import_checkpoint(lap_folder / "12epoch").state_dict()[own])
    assert torch.equal(import_checkpoint(lap_folder / "7epoch").state_dict()[own], torch.full((10,), 7.0))
    assert not torch.equal(best, torch.full((10,), 7.0))


@pytest.mark.parametrize("kind", ["lap_folder", "slt22_file", *PUBLIC_FILES])
def test_an_imported_model_is_saved_and_loaded_as_any_other(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    is_file = kind in PUBLIC_FILES
    path = systems.write_public_file(tmp_path, kind) if is_file else request.getfixturevalue(kind)
    model = import_checkpoint(path)
    model.save_pretrained(tmp_path / "saved")
    waveforms, _ = systems.draw_batch()
    assert not model.training
    assert torch.equal(
        SpeakerModel.from_pretrained(tmp_path / "saved").embed(waveforms), model.embed(waveforms)
    )


def test_both_namings_of_the_weight_norm_are_taken(lap_folder: Path, slt22_file: Path) -> None:
    waveforms, _ = systems.draw_batch()
    newer, older = ".parametrizations.weight.original", {"0": ".weight_g", "1": ".weight_v"}
    for path, file in ((lap_folder, lap_folder / "12epoch" / "model.state"), (slt22_file, slt22_file)):
        before = import_checkpoint(path).embed(waveforms)
        weights = torch.load(file, weights_only=True)
        renamed = dict(weights)
        for number, old in older.items():
            for name in weights:
                if name.endswith(newer + number):
                    renamed[name.replace(newer + number, old)] = renamed.pop(name)
                elif name.endswith(old):
                    renamed[name.replace(old, newer + number)] = renamed.pop(name)
        assert renamed.keys() != weights.keys()
        torch.save(renamed, file)
        assert torch.equal(import_checkpoint(path).embed(waveforms), before)


def test_missing_and_unexpected_weights_are_listed_by_their_public_names(
    lap_folder: Path, slt22_file: Path
) -> None:
    missing = "backend.speaker_network.emb_norm.bias"
    change(lap_folder / "12epoch" / "model.state", **{missing: None, "stranger": torch.zeros(1)})
    with pytest.raises(DataError, match=rf"missing \['{missing}'\], unexpected \['stranger'\]"):
        import_checkpoint(lap_folder)
    missing = "__S__.model.encoder.layers.3.self_attn.grep_linear.bias"
    change(slt22_file, **{missing: None, "__S__.backend.stranger": torch.zeros(1)})
    with pytest.raises(DataError, match=rf"missing \['{missing}'\], unexpected \['__S__.backend.stranger'\]"):
        import_checkpoint(slt22_file)


def test_a_weight_of_another_shape_is_named_with_both_shapes(lap_folder: Path) -> None:
    name = "backend.speaker_network.emb_norm.bias"
    change(lap_folder / "12epoch" / "model.state", **{name: torch.zeros(3)})
    with pytest.raises(DataError, match=rf"another shape \['{name} \(3,\) for \(10,\)'\]"):
        import_checkpoint(lap_folder)


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, lap_folder: Path) -> None:
    torch.save({"__S__": Path("x")}, tmp_path / "pickle.model")
    with pytest.raises(DataError, match=r"pickle\.model' cannot be read as a file of weights"):
        import_checkpoint(tmp_path / "pickle.model")
    (lap_folder / "12epoch" / "model.state").write_bytes(b"half")
    with pytest.raises(DataError, match=r"model\.state' cannot be read as a file of weights"):
        import_checkpoint(lap_folder)


def test_what_is_no_checkpoint_is_said_to_be_none(tmp_path: Path, lap_folder: Path, slt22_file: Path) -> None:
    with pytest.raises(DataError, match=r"neither model.state nor a readable best_tracking.txt"):
        import_checkpoint(tmp_path)
    with pytest.raises(DataError, match=r"nowhere.*cannot be read"):
        import_checkpoint(tmp_path / "nowhere")
    torch.save([1.0], tmp_path / "list.pt")
    with pytest.raises(DataError, match="has no dictionary of weights but list"):
        import_checkpoint(tmp_path / "list.pt")
    with pytest.raises(
        DataError,
        match=r"no checkpoint of known public code \(it has aam_softmax.weight, backend.*W2V-BERT 2.0",
    ):
        import_checkpoint(lap_folder / "12epoch" / "model.state")
    with pytest.raises(DataError, match="no original WavLM file"):
        import_encoder(slt22_file)
    change(slt22_file, **{"__S__.model.encoder.layers.0.fc1.weight": None})
    with pytest.raises(
        DataError, match=r"no complete WavLM: missing __S__\.model\.encoder\.layers\.0\.fc1\.weight"
    ):
        import_checkpoint(slt22_file)


def test_a_configuration_that_is_not_understood_is_named(lap_folder: Path) -> None:
    config = lap_folder / "model_config.yaml"
    text = config.read_text()
    config.write_text(text.replace("speaker_network: astp", "speaker_network: resnet"))
    with pytest.raises(DataError, match=r"model_config\.yaml': 'resnet' under 'model' is missing or unknown"):
        import_checkpoint(lap_folder)
    config.unlink()
    with pytest.raises(DataError, match=r"model_config\.yaml' cannot be read"):
        import_checkpoint(lap_folder)


def test_another_folder_may_hold_the_encoders_configuration(lap_folder: Path, tmp_path: Path) -> None:
    waveforms, _ = systems.draw_batch()
    before = import_checkpoint(lap_folder).embed(waveforms)
    (tmp_path / "encoder").rename(tmp_path / "moved")
    with pytest.raises(DataError, match="pass encoder="):
        import_checkpoint(lap_folder)
    assert torch.equal(import_checkpoint(lap_folder, tmp_path / "moved").embed(waveforms), before)
    (tmp_path / "moved" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(DataError, match=r"model_type is 'bert'.*wavlm, hubert, wav2vec2"):
        import_checkpoint(lap_folder, tmp_path / "moved")


def test_the_margin_head_comes_along_where_there_is_one(lap_folder: Path, slt22_file: Path) -> None:
    head = import_margin_head(lap_folder)
    weights = torch.load(lap_folder / "12epoch" / "model.state", weights_only=True)
    assert torch.equal(head.weight, weights["aam_softmax.weight"])
    assert head.scale == 30
    head = import_margin_head(slt22_file)
    weights = torch.load(slt22_file, weights_only=True)
    assert head.weight.shape == (1, 256, systems.NUM_CLASSES)
    assert torch.equal(head.weight[0].T, weights["__L__.weight"])
    change(slt22_file, **{"__L__.weight": None})
    import_checkpoint(slt22_file)
    with pytest.raises(DataError, match="has no margin head of AAM-softmax"):
        import_margin_head(slt22_file)


def test_a_state_dict_of_several_gpus_is_taken(slt22_file: Path, tmp_path: Path) -> None:
    weights = torch.load(slt22_file, weights_only=True)
    torch.save({f"module.{name}": value for name, value in weights.items()}, tmp_path / "gpus.model")
    waveforms, _ = systems.draw_batch()
    alone = import_checkpoint(slt22_file).embed(waveforms)
    assert torch.equal(import_checkpoint(tmp_path / "gpus.model").embed(waveforms), alone)


def test_shapes_tell_slt22s_encoder_and_its_training_has_no_time_masks(
    slt22_file: Path, tmp_path: Path
) -> None:
    config = import_checkpoint(slt22_file).frontend.config
    given = import_encoder(tmp_path / "WavLM.pt").config
    for name in (
        "hidden_size",
        "num_hidden_layers",
        "num_attention_heads",
        "intermediate_size",
        "hidden_act",
        "conv_dim",
        "conv_kernel",
        "conv_stride",
        "conv_bias",
        "num_conv_pos_embeddings",
        "num_conv_pos_embedding_groups",
        "num_buckets",
        "max_bucket_distance",
        "do_stable_layer_norm",
        "feat_extract_norm",
    ):
        assert getattr(config, name) == getattr(given, name), name
    drawn_in_training = ("hidden_dropout", "attention_dropout", "feat_proj_dropout", "layerdrop")
    assert [getattr(config, name) for name in drawn_in_training] == [0.1, 0.1, 0.1, 0.05]
    assert not config.apply_spec_augment


def test_an_original_cfg_falls_back_on_the_original_defaults(tmp_path: Path) -> None:
    torch.save({"cfg": {"encoder_layers": 1, "normalize": True}, "model": {}}, tmp_path / "WavLM.pt")
    with pytest.raises(DataError, match=r"missing .*'encoder.layers.0.fc1.bias'.*unexpected \[\]"):
        import_encoder(tmp_path / "WavLM.pt")
    torch.save({"cfg": {"conv_feature_layers": "__import__('os')"}, "model": {}}, tmp_path / "WavLM.pt")
    with pytest.raises(DataError, match="its cfg is no WavLM configuration: conv_feature_layers"):
        import_encoder(tmp_path / "WavLM.pt")
    torch.save({"cfg": {"encoder_layers": "two"}, "model": {}}, tmp_path / "WavLM.pt")
    with pytest.raises(DataError, match="its cfg is no WavLM configuration"):
        import_encoder(tmp_path / "WavLM.pt")


def test_an_imported_encoder_keeps_what_its_cfg_says_of_the_waveform(tmp_path: Path) -> None:
    weights = systems.draw_weights(read_fixture("slt22")["shapes"]["wavlm"], systems.PRETRAINED_SEED)
    for normalise in (False, True):
        cfg = systems.ORIGINAL_BASE | {"normalize": normalise}
        encoder = import_encoder(systems.write_original_wavlm(tmp_path / "WavLM.pt", cfg, weights))
        encoder.save_pretrained(tmp_path / "saved")
        assert AutoConfig.from_pretrained(tmp_path / "saved").do_normalize is normalise
