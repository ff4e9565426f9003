"""Tags of a run for its code, its versions and its machine."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from speaker_verification.hooks.tracking.environment import machine_tags, source_tags


def test_a_run_knows_its_commit_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    assert source_tags(tmp_path) == {}
    git("init", "--quiet")
    (tmp_path / "code.py").write_text("1\n")
    assert source_tags(tmp_path) == {}
    git("add", "code.py")
    git("commit", "--quiet", "--message=first")
    (tmp_path / "untracked.txt").write_text("")
    commit = git("rev-parse", "HEAD")
    assert source_tags(tmp_path) == {"mlflow.source.git.commit": commit, "uncommitted_changes": "no"}
    (tmp_path / "code.py").write_text("2\n")
    assert source_tags(tmp_path) == {"mlflow.source.git.commit": commit, "uncommitted_changes": "yes"}


def test_a_run_knows_its_versions_and_machine() -> None:
    tags = machine_tags("cpu")
    assert tags["version.python"] == platform.python_version()
    for package in ("torch", "transformers", "kedro", "speaker-verification"):
        assert tags[f"version.{package}"] == version(package)
    assert tags["device"].startswith("CPU")
    assert tags["processes"] == "1"
