"""Files of wespeaker and of w2v-BERT-2.0_SV; their embeddings are in test_public_checkpoints.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor
from transformers import Wav2Vec2BertConfig

from speaker_verification.common.errors import DataError
from speaker_verification.models import import_checkpoint, import_margin_head
from speaker_verification.models.importing.lora import merge_lora
from speaker_verification.models.importing.public_checkpoints import is_public_checkpoint
from tests.support import public_systems as systems
from tests.support.public_systems import NUM_CLASSES, read_fixture, write_public_file

QUERY = "front.encoder.base_model.model.encoder.layers.0.self_attn.linear_q"


def weights_of(name: str) -> dict[str, Tensor]:
    return systems.draw_weights(read_fixture(name)["shapes"]["model"], systems.SEED)


def embed(path: Path, **options: Any) -> Tensor:
    return import_checkpoint(path, **options).embed(systems.draw_batch()[0])


def write_options(folder: Path, dataset: dict[str, Any], **head: Any) -> None:
    """config.yaml as wespeaker writes it beside its checkpoints."""
    options = {"dataset_args": {"num_frms": 300} | dataset, "projection_args": head}
    (folder / "config.yaml").write_text(yaml.safe_dump(options))


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("ca_mhfa", "back_end.pooling_fc.bias"),
        ("wespeaker_mhfa", "model.encoder.layers.1.fc2.bias"),
        ("w2v_bert_lora", "front.encoder.encoder.layers.1.ffn2.output_dense.bias"),
        ("w2v_bert_wespeaker", "frontend.encoder.encoder.layers.1.conv_module.layer_norm.bias"),
        ("w2v_bert_wespeaker", "pooling.attention.2.running_mean"),
        ("w2v_bert_wespeaker", "adapter_layers.2.3.weight"),
    ],
)
def test_missing_and_unexpected_weights_are_listed_by_their_public_names(
    name: str, dropped: str, tmp_path: Path
) -> None:
    weights = weights_of(name) | {"stranger": torch.zeros(1)}
    stored = dropped.replace("front.encoder.", "front.encoder.base_model.model.", 1)
    del weights[stored]
    path = write_public_file(tmp_path, name, weights)
    with pytest.raises(DataError, match=rf"missing \['{dropped}'\], unexpected \['stranger'\]"):
        import_checkpoint(path)


def test_a_low_rank_update_is_added_as_alpha_over_its_rank() -> None:
    weights = {
        "base_model.model.q.base_layer.weight": torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]),
        "base_model.model.q.base_layer.bias": torch.tensor([5.0, 6.0, 7.0]),
        "base_model.model.q.lora_A.default.weight": torch.tensor([[1.0, 2.0], [0.0, 1.0]]),
        "base_model.model.q.lora_B.default.weight": torch.tensor([[1.0, 0.0], [0.0, 3.0], [1.0, 1.0]]),
        "base_model.model.k.weight": torch.tensor([[4.0]]),
    }
    merged = merge_lora(weights, alpha=4.0, origin=Path("file"))
    # B A = [[1, 2], [0, 3], [1, 3]], times 4 / 2.
    assert merged["q.weight"].tolist() == [[3.0, 4.0], [0.0, 7.0], [4.0, 8.0]]
    assert merged["q.bias"].tolist() == [5.0, 6.0, 7.0]
    assert merged.keys() == {"q.weight", "q.bias", "k.weight"}


def test_merged_and_unmerged_low_rank_updates_give_one_model(tmp_path: Path) -> None:
    weights = weights_of("w2v_bert_lora")
    unmerged = embed(write_public_file(tmp_path, "w2v_bert_lora"))
    merged = {}
    for name, tensor in weights.items():
        if ".lora_" in name:
            continue
        layer = name.removesuffix(".base_layer.weight")
        if layer != name:
            down, up = (weights[f"{layer}.lora_{part}.default.weight"].double() for part in "AB")
            tensor = (tensor.double() + 128 / 64 * (up @ down)).float()
        merged[name.replace("base_model.model.", "").replace(".base_layer", "")] = tensor
    torch.testing.assert_close(
        embed(write_public_file(tmp_path, "w2v_bert_lora", merged)), unmerged, rtol=0, atol=1e-5
    )


def test_the_scale_of_low_rank_updates_is_given_or_wespeakers(tmp_path: Path) -> None:
    renamed = {
        "frontend" + name.removeprefix("front") if name.startswith("front.") else name: tensor
        for name, tensor in weights_of("w2v_bert_lora").items()
    }
    path = write_public_file(tmp_path, "w2v_bert_wespeaker", renamed)
    published, half = embed(path), embed(path, lora_alpha=64)
    assert torch.equal(embed(path, lora_alpha=128), published)
    assert not torch.allclose(half, published, atol=1e-3)
    write_options(tmp_path, {"w2vbert_args": {"lora_config_args": {"r": 64, "lora_alpha": 64}}})
    assert torch.equal(embed(path), half)
    assert torch.equal(embed(path, lora_alpha=128), published)
    write_options(tmp_path, {"w2vbert_args": {"lora_config_args": None}})
    assert torch.equal(embed(path), published)


def test_a_low_rank_update_that_fits_nothing_is_named(tmp_path: Path) -> None:
    weights = weights_of("w2v_bert_lora")
    del weights[f"{QUERY}.lora_B.default.weight"]
    with pytest.raises(DataError, match=r"no complete LoRA: missing .*linear_q\.lora_B\.default\.weight"):
        import_checkpoint(write_public_file(tmp_path, "w2v_bert_lora", weights))
    weights = weights_of("w2v_bert_lora") | {f"{QUERY}.lora_B.default.weight": torch.zeros(7, 64)}
    with pytest.raises(DataError, match=r"LoRA of .*linear_q that does not fit it: \(7, 32\) for \(32, 32\)"):
        import_checkpoint(write_public_file(tmp_path, "w2v_bert_lora", weights))
    weights[f"{QUERY}.lora_B.default.weight"] = torch.zeros(32, 3)
    with pytest.raises(DataError, match=r"LoRA of .*linear_q that does not fit it"):
        import_checkpoint(write_public_file(tmp_path, "w2v_bert_lora", weights))


def test_a_scale_without_low_rank_updates_is_refused(tmp_path: Path) -> None:
    path = write_public_file(tmp_path, "w2v_bert_wespeaker")
    with pytest.raises(DataError, match=r"no low-rank updates .* leave lora_alpha out"):
        import_checkpoint(path, lora_alpha=64)


def test_shapes_tell_w2v_berts_encoder_which_trains_without_layer_drop_and_masks(tmp_path: Path) -> None:
    config = import_checkpoint(write_public_file(tmp_path, "w2v_bert_wespeaker")).frontend.config
    published = Wav2Vec2BertConfig()
    expected = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
        "conv_depthwise_kernel_size": 7,
        "feature_projection_input_dim": 160,
        "left_max_position_embeddings": 64,
        "right_max_position_embeddings": 8,
        "layerdrop": 0.0,
        "mask_time_prob": 0.0,
        "conformer_conv_dropout": 0.1,
        "hidden_act": published.hidden_act,
        "layer_norm_eps": published.layer_norm_eps,
    }
    assert {name: getattr(config, name) for name in expected} == expected


def test_a_folder_may_hold_the_configuration_of_w2v_bert(tmp_path: Path) -> None:
    path = write_public_file(tmp_path, "w2v_bert_wespeaker")
    own = Wav2Vec2BertConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        conv_depthwise_kernel_size=7,
        layerdrop=0.1,
        mask_time_prob=0.05,
    )
    own.save_pretrained(tmp_path / "encoder")
    model = import_checkpoint(path, tmp_path / "encoder")
    assert model.frontend.config.layerdrop == model.frontend.config.mask_time_prob == 0
    assert torch.equal(model.embed(systems.draw_batch()[0]), embed(path))


def test_other_distances_of_positions_need_the_encoders_configuration(tmp_path: Path) -> None:
    weights = weights_of("w2v_bert_wespeaker")
    for layer in (0, 1):
        name = f"frontend.encoder.encoder.layers.{layer}.self_attn.distance_embedding.weight"
        weights[name] = weights[name][:41]
    path = write_public_file(tmp_path, "w2v_bert_wespeaker", weights)
    with pytest.raises(DataError, match=r"41 relative positions, not 64 to the left and 8 .*pass encoder="):
        import_checkpoint(path)


def test_a_pruned_encoder_comes_with_the_units_that_are_left(tmp_path: Path) -> None:
    config = import_checkpoint(write_public_file(tmp_path, "w2v_bert_pruned")).frontend.config
    assert (config.num_attention_heads, config.intermediate_size) == (4, 128)
    assert config.kept_units == {
        "attention_heads": ["0-2", "", "0"],
        "feed_forward": [["0-47", "0-19"], ["0-6", ""], ["", "0-30"]],
        "convolution": ["0-31", "0-8", "0"],
    }


def test_a_weight_of_a_module_that_is_not_pruned_away_is_missed(tmp_path: Path) -> None:
    weights = weights_of("w2v_bert_pruned")
    network = "front.encoder.encoder.layers.1.ffn1"
    del weights[f"{network}.output_dense.bias"]
    path = write_public_file(tmp_path, "w2v_bert_pruned", weights)
    with pytest.raises(DataError, match=rf"missing \['{network}\.output_dense\.bias'\], unexpected \[\]"):
        import_checkpoint(path)
    del weights[f"{network}.intermediate_dense.weight"]
    path = write_public_file(tmp_path, "w2v_bert_pruned", weights)
    with pytest.raises(
        DataError, match=rf"no complete W2V-BERT 2.0: missing {network}\.intermediate_dense\."
    ):
        import_checkpoint(path)


def test_wespeakers_options_say_whether_waveforms_are_16_bit_samples(tmp_path: Path) -> None:
    waveforms = 1e-3 * systems.draw_batch()[0]
    for name in ("wespeaker_mhfa", "ca_mhfa"):
        path = write_public_file(tmp_path, name)
        write_options(tmp_path, {"raw_wav": True})
        samples = import_checkpoint(path)
        write_options(tmp_path, {"raw_wav": True, "frontend": "wavlm"})
        floats = import_checkpoint(path)
        assert torch.equal(samples.embed(waveforms), floats.embed(waveforms * 2**15))
        assert not torch.allclose(samples.embed(waveforms), floats.embed(waveforms), atol=1e-2)
        (tmp_path / "config.yaml").unlink()
        published = samples if name == "ca_mhfa" else floats
        assert torch.equal(import_checkpoint(path).embed(waveforms), published.embed(waveforms))


def test_the_heads_of_all_codes_come_with_their_scale_and_centres(tmp_path: Path) -> None:
    path = write_public_file(tmp_path, "ca_mhfa")
    rows = weights_of("ca_mhfa")["projection.weight"]  # three sub-centres of a class beside each other
    head = import_margin_head(path)
    assert head.weight.shape == (3, 10, NUM_CLASSES)
    assert (head.scale, head.fallback) == (32, "wespeaker")
    assert torch.equal(head.weight[1, :, 4], rows[3 * 4 + 1])
    write_options(tmp_path, {}, project_type="arc_margin_intertopk_subcenter", K=1, scale=20.0)
    head = import_margin_head(path)
    assert head.weight.shape == (1, 10, 3 * NUM_CLASSES)
    assert head.scale == 20

    (tmp_path / "config.yaml").unlink()
    head = import_margin_head(write_public_file(tmp_path, "w2v_bert_wespeaker"))
    assert head.weight.shape == (1, 10, NUM_CLASSES)
    assert (head.scale, head.fallback) == (32, "wespeaker")

    path = write_public_file(tmp_path, "w2v_bert_lora")
    head = import_margin_head(path)
    rows = torch.load(path, weights_only=True)["modules"]["classifier"]["weight"]
    assert torch.equal(head.weight[0].T, rows)
    assert (head.scale, head.fallback) == (32, "arcface")


@pytest.mark.parametrize(
    "head", [{"project_type": "sphereface2"}, {"project_type": "arc_margin", "easy_margin": True}]
)
def test_a_head_that_is_not_aam_softmax_is_left_out(head: dict[str, Any], tmp_path: Path) -> None:
    weights = weights_of("w2v_bert_wespeaker")
    if head["project_type"] == "sphereface2":
        weights["projection.bias"] = torch.zeros(1, 1)
    path = write_public_file(tmp_path, "w2v_bert_wespeaker", weights)
    write_options(tmp_path, {}, **head)
    embed(path)
    with pytest.raises(DataError, match="has no margin head of AAM-softmax"):
        import_margin_head(path)


def test_a_head_whose_rows_are_no_whole_classes_is_refused(tmp_path: Path) -> None:
    weights = weights_of("ca_mhfa") | {"projection.weight": torch.zeros(20, 10)}
    with pytest.raises(DataError, match=r"20 rows, not 3 sub-centres.*config\.yaml"):
        import_margin_head(write_public_file(tmp_path, "ca_mhfa", weights))


def test_a_downloaded_folder_and_wrapped_or_averaged_weights_are_taken(tmp_path: Path) -> None:
    weights = weights_of("w2v_bert_wespeaker")
    alone = embed(write_public_file(tmp_path, "w2v_bert_wespeaker"))
    averaged = {n: t.float() if n.endswith("num_batches_tracked") else t for n, t in weights.items()}
    torch.save(averaged, tmp_path / "avg_model.pt")
    assert is_public_checkpoint(tmp_path)
    assert torch.equal(embed(tmp_path), alone)
    for name in ("model", "state_dict"):
        torch.save({name: weights}, tmp_path / "wrapped.pt")
        assert torch.equal(embed(tmp_path / "wrapped.pt"), alone)


def test_options_are_those_of_the_experiment_that_the_models_folder_is_in(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    path = write_public_file(tmp_path / "models", "ca_mhfa")
    write_options(tmp_path, {"raw_wav": True}, project_type="arc_margin")
    assert import_margin_head(path).weight.shape == (1, 10, 3 * NUM_CLASSES)
    (tmp_path / "config.yaml").write_text("a: of another program\n")
    assert import_margin_head(path).weight.shape == (3, 10, NUM_CLASSES)
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(DataError, match=r"config\.yaml' cannot be read"):
        import_margin_head(path)


def test_a_file_of_no_known_code_names_its_weights_and_what_is_taken(tmp_path: Path) -> None:
    torch.save({"layer1.weight": torch.zeros(1), "fc.bias": torch.zeros(1)}, tmp_path / "resnet.pt")
    with pytest.raises(
        DataError, match=r"it has fc\.bias, layer1\.weight.*LAP.*SLT22.*CA-MHFA.*W2V-BERT 2\.0"
    ):
        import_checkpoint(tmp_path / "resnet.pt")
    torch.save({"cfg": {}, "model": {}}, tmp_path / "WavLM.pt")
    with pytest.raises(DataError, match="original WavLM file: import_encoder takes it"):
        import_checkpoint(tmp_path / "WavLM.pt")
    torch.save({"modules": {"spk_model": {"front.step": 3}}}, tmp_path / "ckpt.pth")
    with pytest.raises(DataError, match=r"front\.step is no tensor but int"):
        import_checkpoint(tmp_path / "ckpt.pth")
    torch.save({"modules": {"spk_model": np.zeros(3)}}, tmp_path / "ckpt.pth")
    with pytest.raises(DataError, match=r"ckpt\.pth' cannot be read as a file of weights"):
        import_checkpoint(tmp_path / "ckpt.pth")
