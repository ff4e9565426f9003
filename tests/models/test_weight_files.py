from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from speaker_verification.common.errors import DataError
from speaker_verification.models import import_checkpoint, import_encoder, import_margin_head
from speaker_verification.models.frontend import load_encoder
from speaker_verification.models.settings import FrontendSettings, encoder_width
from speaker_verification.models.speaker_model import SpeakerModel
from speaker_verification.models.weight_files import read_json, read_safetensors
from tests.support.tiny_models import TINY_WAVLM, tiny_settings

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d" * 32 + b"\nsize 377607901\n"
FOREIGN = b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(300)
# What lies in place of a file, given the file, and what is said of it.
SPOILT: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "pointer": (lambda _: POINTER, "is a Git LFS pointer .*: run git lfs pull"),
    "empty": (lambda _: b"", "is empty"),
    "page": (lambda _: b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
    "cut": (lambda whole: whole[: len(whole) // 2], "cut short after|cannot be read as JSON"),
    "foreign": (lambda _: FOREIGN, "cannot be read as"),
}
spoilt = pytest.mark.parametrize(("spoil", "message"), SPOILT.values(), ids=SPOILT)


@pytest.fixture
def encoder(encoder_folder: Path, tmp_path: Path) -> Path:
    return shutil.copytree(encoder_folder, tmp_path / "encoder")


@pytest.fixture
def saved(encoder_folder: Path, tmp_path: Path) -> Path:
    SpeakerModel.from_encoder(encoder_folder, tiny_settings(TINY_WAVLM)).save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def assert_told(load: Callable[[], object], path: Path, message: str) -> None:
    """In one line, with the file's path."""
    with pytest.raises(DataError, match=message) as error:
        load()
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@spoilt
def test_a_file_of_an_encoder_that_is_something_else_is_named(
    spoil: Callable[[bytes], bytes], message: str, encoder: Path, tmp_path: Path
) -> None:
    for name in ("model.safetensors", "config.json"):
        folder = shutil.copytree(encoder, tmp_path / name)
        path = folder / name
        path.write_bytes(spoil(path.read_bytes()))
        assert_told(lambda folder=folder: load_encoder(folder), path, message)
    weights = load_file(encoder / "model.safetensors")
    (encoder / "model.safetensors").unlink()
    torch.save(weights, encoder / "pytorch_model.bin")
    load_encoder(encoder)
    path = encoder / "pytorch_model.bin"
    path.write_bytes(spoil(path.read_bytes()))
    assert_told(lambda: load_encoder(encoder), path, f"{message}|cannot be read as a file of weights")


@spoilt
def test_a_file_of_a_sharded_encoder_that_is_something_else_is_named(
    spoil: Callable[[bytes], bytes], message: str, encoder: Path, tmp_path: Path
) -> None:
    whole = load_encoder(encoder)
    whole.save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    index = tmp_path / "shards" / "model.safetensors.index.json"
    again = load_encoder(tmp_path / "shards")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in whole.state_dict().items())
    for path in (sorted(tmp_path.glob("shards/*.safetensors"))[1], index):
        content = path.read_bytes()
        path.write_bytes(spoil(content))
        assert_told(lambda: load_encoder(tmp_path / "shards"), path, message)
        path.write_bytes(content)
    path = sorted(tmp_path.glob("shards/*.safetensors"))[1]
    path.unlink()
    assert_told(lambda: load_encoder(tmp_path / "shards"), path, "no such file")
    index.write_text("{}")
    assert_told(lambda: load_encoder(tmp_path / "shards"), tmp_path / "shards", "weight_map")


@spoilt
def test_a_file_of_a_speaker_model_that_is_something_else_is_named(
    spoil: Callable[[bytes], bytes], message: str, saved: Path
) -> None:
    for name in ("model.safetensors", "config.json"):
        path = saved / name
        content = path.read_bytes()
        path.write_bytes(spoil(content))
        assert_told(lambda: SpeakerModel.from_pretrained(saved), path, message)
        path.write_bytes(content)
    SpeakerModel.from_pretrained(saved)


@spoilt
def test_a_public_checkpoint_that_is_something_else_is_named(
    spoil: Callable[[bytes], bytes], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"
    torch.save({"cfg": {}, "model": {"weight": torch.zeros(100)}}, path)
    path.write_bytes(spoil(path.read_bytes()))
    for load in (import_encoder, import_checkpoint, import_margin_head):
        assert_told(lambda load=load: load(path), path, f"{message}|cannot be read as a file of weights")


def test_weights_of_another_encoder_are_refused_with_their_names_and_sizes(
    encoder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((encoder / "config.json").read_text())
    weights = load_file(encoder / "model.safetensors")
    path = encoder / "model.safetensors"
    for change, message in (
        (
            {"intermediate_size": 48},
            r"of another shape \['encoder.layers.0.feed_forward.intermediate_dense.bias \(32,\) for \(48,\)",
        ),
        ({"num_hidden_layers": 5}, "lacks 38 weights .* the first: .'encoder.layers.3"),
        ({"num_hidden_layers": 2}, "19 unexpected .'encoder.layers.2"),
        ({"feat_extract_norm": "layer"}, "lacks 12 weights .*feature_extractor.conv_layers.1.layer_norm"),
    ):
        (encoder / "config.json").write_text(json.dumps(config | change))
        assert_told(lambda: load_encoder(encoder), path, message)
    (encoder / "config.json").write_text(json.dumps(config))
    save_file({f"other.{name}": value for name, value in weights.items()}, path)
    assert_told(lambda: load_encoder(encoder), path, "lacks .* weights")
    name = "encoder.layers.1.attention.q_proj.bias"
    save_file(weights | {name: torch.full((16,), torch.nan)}, path)
    assert_told(lambda: load_encoder(encoder), path, f"{name} that is not finite")
    assert capfd.readouterr().err == ""  # transformers' tables


def test_heads_behind_an_encoder_and_older_names_are_no_reason_to_refuse(encoder: Path) -> None:
    before = load_encoder(encoder).state_dict()
    weights = load_file(encoder / "model.safetensors")
    renamed = {
        f"wavlm.{name}".replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in weights.items()
    }
    heads = {
        "lm_head.weight": torch.zeros(4, 16),
        "quantizer.codevectors": torch.zeros(2),
        "mask_emb": torch.ones(2),
    }
    save_file(renamed | heads, encoder / "model.safetensors")
    after = load_encoder(encoder).state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    save_file(
        {f"wavlm.{name}": value for name, value in weights.items()} | {"wavlm.encoder.extra": torch.ones(1)},
        encoder / "model.safetensors",
    )
    with pytest.raises(DataError, match=r"1 unexpected \['.*encoder.extra'\]"):
        load_encoder(encoder)


def test_a_configuration_beside_the_encoder_that_is_something_else_is_named(encoder: Path) -> None:
    (encoder / "preprocessor_config.json").write_bytes(POINTER)
    assert_told(lambda: load_encoder(encoder), encoder / "preprocessor_config.json", "Git LFS pointer")


def test_a_width_is_not_looked_for_in_a_configuration_that_is_something_else(encoder: Path) -> None:
    settings = FrontendSettings(checkpoint=str(encoder))
    assert encoder_width(settings) == 16
    (encoder / "config.json").write_bytes(POINTER)
    assert_told(lambda: encoder_width(settings), encoder / "config.json", "Git LFS pointer")
    for values in ({"hidden_size": "wide"}, {"hidden_size": 0}, {}):
        (encoder / "config.json").write_text(json.dumps(values))
        assert encoder_width(settings) is None


def test_weights_of_a_speaker_model_are_its_configuration_s(saved: Path) -> None:
    path, config = saved / "model.safetensors", json.loads((saved / "config.json").read_text())
    weights = load_file(path)
    name = "speaker_network.projection.bias"
    save_file(weights | {name: torch.zeros(7)}, path)
    assert_told(
        lambda: SpeakerModel.from_pretrained(saved), path, rf"another shape \['{name} \(7,\) for \(10,\)'\]"
    )
    save_file(weights | {name: torch.full((10,), torch.inf)}, path)
    assert_told(lambda: SpeakerModel.from_pretrained(saved), path, f"{name} that is not finite")
    save_file(weights, path)
    for change, message in (
        ({"encoder": None}, "missing 'encoder'"),
        ({"model": [1]}, "missing 'model'"),
        ({"encoder": {}}, "encoder.model_type is 'None'"),
        ({"model": {"fronted": {}}}, r"unknown parameter '.*config.json: model.fronted'"),
    ):
        (saved / "config.json").write_text(json.dumps(config | change))
        assert_told(lambda: SpeakerModel.from_pretrained(saved), saved / "config.json", message)


def test_what_reads_says_what_is_not_there(tmp_path: Path) -> None:
    assert_told(lambda: read_json(tmp_path / "a.json"), tmp_path / "a.json", "no such file")
    assert_told(lambda: read_safetensors(tmp_path), tmp_path, "it is a folder")
    (tmp_path / "a.json").write_text("[1]")
    assert_told(lambda: read_json(tmp_path / "a.json"), tmp_path / "a.json", "no JSON object but list")
