"""Addresses of mirrors: what is refused, and what is hidden in messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from speaker_verification.common.errors import ParameterError
from speaker_verification.corpora.download.addresses import is_address, masked
from speaker_verification.corpora.download.sources import DownloadSettings
from speaker_verification.corpora.settings import PrepareSettings


@pytest.mark.parametrize(
    "address",
    ["http://ann:s3cret@host/DIR/", "https://s3cret@host/", "http://host/x?key=s3cret", "http:///s3cret"],
)
def test_credentials_in_an_address_are_refused_since_parameters_are_logged(address: str) -> None:
    with pytest.raises(ParameterError, match=r"parameter 'prepare\.mirror': must ") as of_mirror:
        PrepareSettings.parse({"mirror": address}, "prepare")
    with pytest.raises(ParameterError, match=r"parameter 'download\.hosts\.vgg': must ") as of_host:
        DownloadSettings.parse({"hosts": {"vgg": address}}, "download")
    assert "s3cret" not in f"{of_mirror.value} {of_host.value}"


def test_a_mirror_is_a_folder_or_an_address() -> None:
    folders = ["/disks/voxceleb", "http", "C:\\voxceleb"]
    addresses = ["http://host/DIR/", "HTTPS://host:8000"]
    for mirror in [*folders, *addresses]:
        assert PrepareSettings.parse({"mirror": mirror}, "prepare").mirror == mirror
        assert is_address(mirror) == (mirror in addresses)
    assert PrepareSettings.parse({"mirror": "~/x"}, "prepare").mirror == str(Path.home() / "x")


def test_secrets_are_masked_in_every_spelling() -> None:
    text = "GET /x?file=a.zip&key=p%2Fw HTTP/1.1, then (url: /y?Signature=abc&z=1) for p/w"
    assert (
        masked(text, ["p/w"])
        == "GET /x?file=***&key=*** HTTP/1.1, then (url: /y?Signature=***&z=***) for ***"
    )
