"""Encoders by hub name: downloaded by the hub's own client from a hub on loopback, found again without it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import load_file

from speaker_verification.common.errors import DataError
from speaker_verification.models.encoders.pretrained import download_encoder, find_encoder
from speaker_verification.models.frontend import load_encoder
from tests.support.hub import Hub, files_in, serving

NAME = "lab/tiny-wavlm"
PREPROCESSOR = json.dumps(
    {"do_normalize": True, "feature_extractor_type": "Wav2Vec2FeatureExtractor"}
).encode()


@pytest.fixture
def files(encoder_folder: Path) -> dict[str, bytes]:
    """An encoder as the hub holds it."""
    return {**files_in(encoder_folder), "preprocessor_config.json": PREPROCESSOR, "README.md": b"# tiny"}


@pytest.fixture
def hub(files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub({NAME: files})) as served:
        point_at(served.address, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield served


def point_at(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Do what HF_ENDPOINT does to a process that starts with it."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


def states(folder: Path) -> torch.Tensor:
    with torch.inference_mode():
        return load_encoder(folder).eval()(torch.linspace(-1, 1, 8_000)[None]).last_hidden_state


def test_a_hub_name_is_downloaded_once_and_loads_as_it_was(
    hub: Hub, files: dict[str, bytes], encoder_folder: Path, tmp_path: Path
) -> None:
    assert find_encoder(NAME, tmp_path) is None
    folder = download_encoder(NAME, tmp_path)
    assert folder == tmp_path / NAME == find_encoder(NAME, tmp_path)
    assert files_in(folder) == {name: data for name, data in files.items() if name != "README.md"}
    assert load_encoder(folder).config.do_normalize
    assert torch.equal(states(folder), states(encoder_folder))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    hub.requests.clear()
    assert download_encoder(NAME, tmp_path) == folder
    assert not hub.requests


def test_weights_in_torch_s_format_or_in_shards_are_downloaded_too(
    hub: Hub, files: dict[str, bytes], encoder_folder: Path, tmp_path: Path
) -> None:
    torch.save(load_file(encoder_folder / "model.safetensors"), tmp_path / "weights")
    config = {"config.json": files["config.json"]}
    hub.models["lab/old"] = config | {"pytorch_model.bin": (tmp_path / "weights").read_bytes()}
    load_encoder(encoder_folder).save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    hub.models["lab/large"] = files_in(tmp_path / "shards")
    assert len(hub.models["lab/large"]) > 3
    for name in ("lab/old", "lab/large"):
        folder = download_encoder(name, tmp_path / "raw")
        assert files_in(folder) == hub.models[name]
        assert torch.equal(states(folder), states(encoder_folder))


def test_a_download_that_breaks_off_is_resumed_by_the_next(
    hub: Hub, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.models[NAME] = dict(files)
    weights = hub.models[NAME].pop("model.safetensors")
    with pytest.raises(DataError, match=rf"^encoder '{NAME}': the hub has no model.safetensors or"):
        download_encoder(NAME, tmp_path)
    assert find_encoder(NAME, tmp_path) is None
    hub.models[NAME]["model.safetensors"] = weights
    hub.cuts["model.safetensors"] = [len(weights) // 2]
    hub.requests.clear()
    download_encoder(NAME, tmp_path)
    assert (tmp_path / NAME / "model.safetensors").read_bytes() == weights
    assert not [
        request for request in hub.requests if re.fullmatch("GET .*/(preprocessor_)?config.json", request)
    ]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lab/no-such", "the hub has no such model, or it is private and wants HF_TOKEN; set model.frontend"),
        ("lab/gated", r"is gated: accept its terms at http://.*/lab/gated and set HF_TOKEN"),
        ("lab/broken", r"from http://127.0.0.1:\d+: .*500 .*; run again, or set model.frontend.checkpoint"),
        ("lab/bert", "model_type is 'bert': use one of wavlm, hubert, wav2vec2"),
        ("lab/cut", "as the hub has it cannot be loaded: .*"),
        ("lab/altered", r"SHA-256 of model.safetensors is \w+, the hub says \w+; run again"),
    ],
)
def test_what_the_hub_does_not_give_is_told_in_one_line(
    name: str, message: str, hub: Hub, files: dict[str, bytes], tmp_path: Path
) -> None:
    hub.refusals |= {"lab/gated": (403, "GatedRepo"), "lab/broken": (500, "")}
    hub.models |= {
        "lab/bert": {"config.json": b'{"model_type": "bert"}'},
        "lab/cut": files | {"model.safetensors": files["model.safetensors"][:5_000]},
        "lab/altered": files,
    }
    if name == "lab/altered":
        hub.altered.add("model.safetensors")
    with pytest.raises(DataError, match=f"^encoder '{name}'.* ?{message}") as caught:
        download_encoder(name, tmp_path)
    assert "\n" not in str(caught.value)
    assert find_encoder(name, tmp_path) is None
    assert not (tmp_path / name).exists()


def test_a_machine_without_a_network_is_told_in_one_line(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=f"^encoder '{NAME}' .*HF_HUB_OFFLINE is set: unset it"):
        download_encoder(NAME, tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    point_at("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(
        DataError, match=rf"^encoder '{NAME}'.*http://127.0.0.1:9: .*refused.*; run again[^\n]*$"
    ):
        download_encoder(NAME, tmp_path)
    assert not hub.requests


def test_folders_and_the_hub_s_own_cache_need_no_hub(hub: Hub, encoder_folder: Path, tmp_path: Path) -> None:
    assert find_encoder(str(encoder_folder), tmp_path) == encoder_folder
    assert download_encoder(str(encoder_folder), tmp_path / "raw") == encoder_folder
    assert not hub.requests
    for file in ("config.json", "model.safetensors"):
        hf_hub_download(NAME, file)  # as any other program does
    hub.requests.clear()
    cached = find_encoder(NAME, tmp_path / "raw")
    assert cached is not None
    assert cached.is_relative_to(tmp_path / "cache")
    assert torch.equal(states(cached), states(encoder_folder))
    assert (
        download_encoder(NAME, tmp_path / "raw")
        == tmp_path / "raw" / NAME
        == find_encoder(NAME, tmp_path / "raw")
    )
    assert not any(path.is_symlink() for path in (tmp_path / "raw").rglob("*"))
    assert not hub.requests


def test_what_is_neither_an_encoder_nor_a_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=rf"^encoder '{tmp_path}': the folder lacks config.json or model.safe"
    ):
        find_encoder(str(tmp_path), tmp_path)
    with pytest.raises(DataError, match=r"^encoder '/no/such/folder': no such folder, and no hub name"):
        find_encoder("/no/such/folder", tmp_path)
