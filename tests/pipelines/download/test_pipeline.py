"""The download pipeline, from a mirror on loopback to one that `prepare` takes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from speaker_verification.audio.augmentation import AugmentationSettings
from speaker_verification.common.errors import DataError
from speaker_verification.corpora.download.sources import DownloadSettings
from speaker_verification.corpora.settings import PrepareSettings
from speaker_verification.datasets import CredentialsDataset
from speaker_verification.models.settings import ModelSettings
from speaker_verification.pipelines.download import create_pipeline
from speaker_verification.pipelines.download.nodes import download_pretrained_encoder
from speaker_verification.pipelines.prepare.nodes import provide_mirror
from tests.support.corpora import write_mirror
from tests.support.host import Host, serving

BASE = Path(__file__).parents[3] / "conf" / "base" / "parameters_download.yml"


def run(
    folder: Path,
    prepare: dict[str, Any],
    credentials: dict[str, Any],
    augmentation: dict[str, Any] | None = None,
) -> None:
    node = next(node for node in create_pipeline().nodes if node.name == "download.download_files")
    values = {
        "params:prepare": PrepareSettings.parse(prepare, "prepare"),
        "params:augmentation": AugmentationSettings.parse(augmentation or {}, "augmentation"),
        "params:download": DownloadSettings(retries=0),
        "download_credentials": CredentialsDataset(credentials=credentials).load(),
        "mirror_folder": folder,
    }
    node.run({name: values[name] for name in node.inputs})


def test_the_parameter_file_names_every_parameter_with_its_default() -> None:
    values = yaml.safe_load(BASE.read_text())["download"]
    assert DownloadSettings.parse(values, "download") == DownloadSettings()
    assert set(values) == set(DownloadSettings.model_fields)


def test_all_that_prepare_needs_is_downloaded(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    files = {path.name: path.read_bytes() for path in mirror.iterdir()}
    with serving(Host(files, login=("ann", "s3cret"))) as host:
        prepare = {"mirror": host.address}
        run(tmp_path / "raw", prepare, {"mirror": {"user": "ann", "password": "s3cret"}})
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()} == files
    (tmp_path / "audio").mkdir()
    settings = PrepareSettings.parse(prepare, "prepare")
    found = provide_mirror(settings, AugmentationSettings(), tmp_path / "raw", tmp_path / "audio")
    assert found.folder == tmp_path / "raw"


def test_archives_that_nothing_is_augmented_with_are_not_downloaded(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    files = {path.name: path.read_bytes() for path in mirror.iterdir()}
    with serving(Host(files)) as host:
        run(tmp_path / "raw", {"mirror": host.address}, {}, {"probability": 0})
    downloaded = {path.name for path in (tmp_path / "raw").iterdir()}
    assert files.keys() - downloaded == {"musan.tar.gz", "rirs_noises.zip"}


def test_a_folder_is_taken_where_it_lies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(tmp_path / "raw", {"mirror": str(tmp_path)}, {})
    assert f"nothing to download: prepare reads the folder {tmp_path} in place" in caplog.text
    assert not (tmp_path / "raw").exists()


def test_a_synthetic_mirror_is_not_downloaded_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(tmp_path / "raw", {"synthetic": {}}, {})
    assert "nothing to download: prepare.synthetic makes the mirror" in caplog.text
    assert not (tmp_path / "raw").exists()


def test_the_encoder_comes_first_so_that_its_name_is_checked_before_anything_long() -> None:
    assert [node.name for node in create_pipeline().nodes] == [
        "download.download_encoder",
        "download.download_files",
    ]


def starting_from(**frontend: Any) -> ModelSettings:
    return ModelSettings.parse({"frontend": frontend}, "model")


def test_an_encoder_that_is_no_hub_s_needs_no_download(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    download_pretrained_encoder(starting_from(checkpoint=None, architecture={}), tmp_path / "raw")
    assert "no encoder to download: its weights are drawn at random" in caplog.text
    (tmp_path / "mine").mkdir()
    with pytest.raises(DataError, match=rf"encoder '{tmp_path}/mine': the folder lacks config.json"):
        download_pretrained_encoder(starting_from(checkpoint=str(tmp_path / "mine")), tmp_path / "raw")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "mine" / name).touch()
    download_pretrained_encoder(starting_from(checkpoint=str(tmp_path / "mine")), tmp_path / "raw")
    assert f"nothing to download, it is in {tmp_path}/mine" in caplog.text
    assert not (tmp_path / "raw").exists()


def test_credentials_are_shown_by_no_description() -> None:
    dataset = CredentialsDataset(credentials={"mmai": {"key": "s3cret"}})
    assert "s3cret" not in f"{dataset} {dataset!r}"
    assert CredentialsDataset(credentials=None).load() == {}
