"""`kedro run --pipeline=download` in a process of its own."""

from __future__ import annotations

from pathlib import Path

from tests.support.corpora import write_mirror
from tests.support.host import Host, serving
from tests.support.project import Kedro

PASSWORD = "pa55-phrase"


def test_credentials_open_a_mirror_and_show_up_nowhere(project: Path, kedro: Kedro, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in write_mirror(tmp_path / "files").iterdir()}
    secrets = project / "conf/local/credentials.yml"
    secrets.write_text(f"download: {{mirror: {{user: ann, password: {PASSWORD}}}}}\n")
    with serving(Host(files, login=("ann", PASSWORD))) as host:
        command = f"--params=prepare.mirror={host.address}"
        early = kedro("run", "--pipeline=prepare", command)
        assert early.returncode == 1
        assert f"run first: kedro run --pipeline=download {command}" in early.stdout
        assert not host.requests
        downloaded = kedro("run", "--pipeline=download", command)
        assert downloaded.returncode == 0, downloaded.stdout
        host.login = ("ann", "another")
        refused = kedro("run", "--pipeline=download", command)
        assert refused.returncode == 1
        assert "access refused (401); check what conf/local/credentials.yml says" in refused.stdout
    raw = project / "data/tiny/01_raw/mirror"
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == files
    assert PASSWORD not in early.stdout + downloaded.stdout + refused.stdout
    holders = [
        path for path in project.rglob("*") if path.is_file() and PASSWORD.encode() in path.read_bytes()
    ]
    assert holders == [secrets]
