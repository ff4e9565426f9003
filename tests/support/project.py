"""A copy of the project in a temporary folder, with an environment whose whole road takes seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]

TINY_ENCODER: dict[str, Any] = {
    "model_type": "wavlm",
    "num_hidden_layers": 2,
    "hidden_size": 16,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "feat_extract_norm": "group",
    "conv_dim": [8] * 7,
    "conv_kernel": [10, 3, 3, 3, 3, 2, 2],
    "conv_stride": [5, 2, 2, 2, 2, 2, 2],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
}
TINY: dict[str, object] = {
    "device": "cpu",
    "prepare": {
        "num_workers": 2,
        "validation_speakers": 3,
        "validation_trials": 60,
        "synthetic": {
            "vox1_dev_speakers": 2,
            "vox1_test_speakers": 3,
            "vox2_dev_speakers": 9,
            "vox2_test_speakers": 2,
            "training_utterances": 4,
            "test_utterances": 4,
            "target_trials": 12,
            "nontarget_trials": 24,
            "wrong_labels": 2,
            "noise_clips": 2,
            "music_clips": 2,
            "speech_clips": 2,
            "simulated_responses": 2,
            "real_responses": 2,
        },
    },
    "model": {
        "frontend": {"architecture": TINY_ENCODER},
        "layer_aggregation": {"lap": {"num_heads": 4, "output_width": 12}},
        "speaker_network": {"astp": {"embedding_size": 10}},
    },
    "pretrain": {"epochs": 1, "steps_per_epoch": 2, "batch_size": 4, "crop_seconds": 1, "num_workers": 0},
    "finetune": {"epochs": 2, "steps_per_epoch": 2, "batch_size": 4, "crop_seconds": 1, "num_workers": 0},
    "lmft": {"epochs": 1, "steps_per_epoch": 1, "batch_size": 4, "crop_seconds": 2, "num_workers": 0},
    "compress": {
        "epochs": 3,
        "recovery_epochs": 1,
        "steps_per_epoch": 2,
        "growth_steps": 2,
        "batch_size": 4,
        "crop_seconds": 1,
        "num_workers": 0,
    },
    "embed": {"num_workers": 0},
    "score": {"top_n": 4, "calibration_trials": 200},
    "package": {"limits": {"least_seconds": 0.5, "least_speech_seconds": 0.0}},  # synthetic speech
}

Kedro = Callable[..., "subprocess.CompletedProcess[str]"]


def copy_project(folder: Path, env: str = "demo", **changes: object) -> Path:
    """An environment of the real project with a tiny encoder, in a folder of its own, as environment `tiny`.

    Sizes are the demo's, made smaller; parameters in `changes` go over them.
    """
    shutil.copytree(PROJECT / "conf", folder / "conf", ignore=shutil.ignore_patterns("credentials*"))
    shutil.copy(PROJECT / "pyproject.toml", folder)
    (folder / "src").mkdir()  # the package itself is the installed one
    shutil.copytree(folder / "conf" / env, folder / "conf" / "tiny")
    own, demo = (
        yaml.safe_load((folder / f"conf/{name}/parameters.yml").read_text()) for name in (env, "demo")
    )
    del demo["prepare"][
        "trial_lists"
    ]  # the environment's own, and all of VoxCeleb's instead of the demo's two
    merged = reduce(_merged, (demo if env == "demo" else own, demo, TINY, changes))
    (folder / "conf/tiny/parameters.yml").write_text(yaml.safe_dump(merged))
    (folder / "conf/tiny/globals.yml").write_text("data_root: data/tiny\n")
    return folder


def tell_of_nodes(folder: Path) -> Path:
    """Make Kedro log each node of a project when it begins."""
    file = folder / "conf" / "logging.yml"
    logging = yaml.safe_load(file.read_text())
    logging["loggers"]["kedro"]["level"] = "INFO"
    file.write_text(yaml.safe_dump(logging))
    return folder


def _merged(base: dict, changes: dict) -> dict:
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict)
        merged[name] = _merged(base[name], value) if both else value
    return merged


def kedro_in(folder: Path, **variables: str) -> Kedro:
    environment = os.environ | {"KEDRO_ENV": "tiny"} | variables

    def kedro(*arguments: str, module: str = "kedro") -> subprocess.CompletedProcess[str]:
        """Run a kedro command in a process of its own; give its output, both streams in stdout."""
        return subprocess.run(
            [sys.executable, "-m", module, *arguments],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    return kedro


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in which nothing has been run."""
    return copy_project(tmp_path)


@pytest.fixture
def kedro(project: Path) -> Kedro:
    return kedro_in(project)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Kedro, str]:
    """A project in which the whole road has been run: its folder, its command, and what the run printed."""
    folder = copy_project(tmp_path_factory.mktemp("finished"))
    kedro = kedro_in(folder)
    run = kedro("run")
    assert run.returncode == 0, run.stdout
    return folder, kedro, run.stdout


@pytest.fixture
def finished_copy(finished: tuple[Path, Kedro, str], tmp_path: Path) -> tuple[Path, Kedro]:
    """A copy of the finished project, to change."""
    folder = tmp_path / "copy"
    shutil.copytree(finished[0], folder)
    return folder, kedro_in(folder)
