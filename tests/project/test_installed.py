"""The package as `pip install .` leaves it: nothing of its extras, and nothing of the working copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
import soundfile
from packaging.requirements import Requirement

from tests.support.project import PROJECT
from tests.support.verifiers import Measured, voice
from tests.support.verifiers import measured as measured

PACKAGE = "speaker-verification"


def needed_by(name: str) -> set[str]:
    """Distributions of this environment that pip installs with one without extras."""
    needed, waiting = set[str](), [name]
    while waiting:
        for line in distribution(waiting.pop()).requires or ():
            requirement = Requirement(line)
            if requirement.name in needed or not (
                requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            ):
                continue
            needed.add(requirement.name)
            waiting.append(requirement.name)
    return needed


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the executables of an environment with the package and what it depends on."""
    root = tmp_path_factory.mktemp("installed")
    dependencies, source, environment = root / "dependencies", root / "source", root / "venv"
    dependencies.mkdir()
    for name in needed_by(PACKAGE):
        for file in distribution(name).files or ():
            link = dependencies / file.parts[0]
            if file.parts[0] != ".." and not link.exists():
                link.symlink_to(Path(str(distribution(name).locate_file(file.parts[0]))))
    venv.create(environment, with_pip=False)
    site_packages = next(environment.glob("lib/python*/site-packages"))
    (site_packages / "dependencies.pth").write_text(f"{dependencies}\n")
    shutil.copytree(
        PROJECT / "src", source / "src", ignore=shutil.ignore_patterns("*.egg-info", "__pycache__")
    )
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(PROJECT / name, source)
    python = environment / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index"]
    subprocess.run([*pip, "--no-deps", "--no-build-isolation", str(source)], check=True)
    return python.parent


def run(program: Path, *arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program of the environment in a folder."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(program), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_installed_command_decides_without_the_extras(
    installed: Path, measured: Measured, tmp_path: Path
) -> None:
    command = installed / PACKAGE
    for name in ("kedro", "mlflow", "silero_vad"):
        missing = run(installed / "python", "-c", f"import {name}", folder=tmp_path)
        assert f"No module named '{name}'" in missing.stderr
    where = "import speaker_verification as package; print(package.__file__)"
    found = run(installed / "python", "-c", where, folder=tmp_path).stdout
    assert Path(found).is_relative_to(installed.parent)
    assert "verify" in run(command, "--help", folder=tmp_path).stdout
    measured[0].save_pretrained(tmp_path / "verifier")
    for name in ("a.wav", "b.wav"):
        soundfile.write(tmp_path / name, np.concatenate([voice(12, 0), voice(12, ord(name[0]))]), 16_000)
    verified = run(command, "verify", "a.wav", "b.wav", "--model", "verifier", folder=tmp_path)
    assert verified.returncode == 0, verified.stderr
    compared = measured[0].compare(tmp_path / "a.wav", tmp_path / "b.wav")
    assert f"{compared.llr:.4f}\n" in verified.stdout
    assert verified.stdout.count("pip install 'speaker-verification[speech]'") == 2
    from_mlflow = run(command, "verify", "a.wav", "b.wav", "--model", "models:/speaker/1", folder=tmp_path)
    assert from_mlflow.returncode == 2
    assert from_mlflow.stderr.splitlines() == [
        "speaker-verification: error: --model models:/speaker/1 needs MLflow: "
        "pip install 'speaker-verification[pipelines]'"
    ]
