"""The download pipeline, from a mirror on loopback to one that `prepare` takes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from speaker_verification.corpora.sources import DownloadSettings
from speaker_verification.datasets import CredentialsDataset
from speaker_verification.errors import ParameterError
from speaker_verification.pipelines.download import create_pipeline
from speaker_verification.pipelines.prepare.nodes import provide_mirror
from tests.corpora.builders import write_mirror
from tests.corpora.host import Host, serving

BASE = Path(__file__).parents[3] / "conf" / "base" / "parameters_download.yml"


def run(
    folder: Path,
    prepare: dict[str, Any],
    credentials: dict[str, Any],
    augmentation: dict[str, Any] | None = None,
) -> None:
    (node,) = create_pipeline().nodes
    values = {
        "params:prepare": prepare,
        "params:augmentation": augmentation or {},
        "params:download": {"retries": 0},
        "download_credentials": CredentialsDataset(credentials=credentials).load(),
        "mirror_folder": folder,
    }
    node.run({name: values[name] for name in node.inputs})


def test_the_parameter_file_names_every_parameter_with_its_default() -> None:
    values = yaml.safe_load(BASE.read_text())["download"]
    assert DownloadSettings.parse(values, "download") == DownloadSettings()
    assert set(values) == set(DownloadSettings.model_fields)


def test_all_that_prepare_needs_is_brought(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    files = {path.name: path.read_bytes() for path in mirror.iterdir()}
    with serving(Host(files, login=("ann", "s3cret"))) as host:
        prepare = {"mirror": host.address}
        run(tmp_path / "raw", prepare, {"mirror": {"user": "ann", "password": "s3cret"}})
    assert {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()} == files
    (tmp_path / "audio").mkdir()
    assert provide_mirror(prepare, {}, tmp_path / "raw", tmp_path / "audio") == str(tmp_path / "raw")


def test_archives_that_nothing_is_augmented_with_are_not_brought(tmp_path: Path) -> None:
    mirror = write_mirror(tmp_path / "mirror")
    files = {path.name: path.read_bytes() for path in mirror.iterdir()}
    with serving(Host(files)) as host:
        run(tmp_path / "raw", {"mirror": host.address}, {}, {"probability": 0})
    brought = {path.name for path in (tmp_path / "raw").iterdir()}
    assert files.keys() - brought == {"musan.tar.gz", "rirs_noises.zip"}


def test_a_folder_is_taken_where_it_lies(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(tmp_path / "raw", {"mirror": str(tmp_path)}, {})
    assert f"nothing to download: prepare takes the folder {tmp_path} where it lies" in caplog.text
    assert not (tmp_path / "raw").exists()


def test_a_synthetic_mirror_is_not_downloaded_over(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match=r"prepare\.synthetic makes the mirror"):
        run(tmp_path / "raw", {"synthetic": {}}, {})


def test_credentials_are_shown_by_no_description() -> None:
    dataset = CredentialsDataset(credentials={"mmai": {"key": "s3cret"}})
    assert "s3cret" not in f"{dataset} {dataset!r}"
    assert CredentialsDataset(credentials=None).load() == {}
