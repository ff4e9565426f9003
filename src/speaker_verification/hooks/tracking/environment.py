"""Tags of a run that say by which code, on what versions and on what machine it was made."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from speaker_verification.common.distributed import processes

logger = logging.getLogger(__name__)

COMMIT_TAG = "mlflow.source.git.commit"
CHANGES_TAG = "uncommitted_changes"
PACKAGES = ("torch", "transformers", "kedro", "speaker-verification")
GIT_SECONDS = 10


def source_tags(project: Path) -> dict[str, str]:
    """Commit of the project's folder, and whether its tracked files differ from it; none outside of git."""
    command = ["git", "-C", str(project), "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return {}
    lines = answer.stdout.splitlines()
    commits = [line.split()[-1] for line in lines if line.startswith("# branch.oid ")]
    if not commits or commits[0] == "(initial)":
        return {}
    changed = any(not line.startswith("#") for line in lines)
    return {COMMIT_TAG: commits[0], CHANGES_TAG: "yes" if changed else "no"}


def machine_tags(device: str) -> dict[str, str]:
    """Versions of the software, the device and the number of processes.

    Args:
        device: parameter `device`.
    """
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    named = {f"version.{name}": value for name, value in versions.items()}
    return named | {"device": _device_name(device), "processes": str(processes().size)}


def _device_name(device: str) -> str:
    import torch

    if device == "cpu" or not torch.cuda.is_available():
        return f"CPU, {platform.machine()}, {os.cpu_count()} cores"
    try:
        return torch.cuda.get_device_name(None if device == "auto" else device)
    except (RuntimeError, AssertionError, ValueError):  # of a driver, or of a device that is not there
        return device
