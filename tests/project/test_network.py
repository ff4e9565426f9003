"""The network is for `download` alone, also where the encoder comes from the hub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from speaker_verification.models.frontend import save_encoder
from speaker_verification.models.settings import FrontendSettings
from tests.support.hub import Hub, files_in, serving
from tests.support.project import TINY_ENCODER, copy_project, kedro_in

NAME = "lab/tiny-wavlm"
GUARD = Path(__file__).parent / "no_network"
SRC = Path(__file__).parents[2] / "src"

# The whole road and what follows it, in one process; its last line tries what must be noticed.
ALL_BUT_DOWNLOAD = """
import socket
from pathlib import Path
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

if __name__ == "__main__":
    bootstrap_project(Path.cwd())
    file = "data/tiny/07_model_output/scores_text/vox1_o.llr.txt"
    for pipeline, parameters in (
        ("__default__", {}), ("export", {}), ("measure", {"measure": {"score_file": file}}),
    ):
        with KedroSession.create(runtime_params=parameters) as session:
            session.run(pipeline_names=[pipeline])
    try:
        socket.create_connection(("127.0.0.1", 9))
    except OSError as error:
        print(error)
"""


def write_old_checkpoint(folder: Path) -> dict[str, bytes]:
    """An encoder as the hub has WavLM: weights in torch's format, and a file for the waveforms."""
    save_encoder(FrontendSettings(checkpoint=None, architecture=TINY_ENCODER), folder, seed=3)
    weights = folder / "model.safetensors"
    torch.save(load_file(weights), folder / "pytorch_model.bin")
    weights.unlink()
    (folder / "preprocessor_config.json").write_text('{"do_normalize": false, "sampling_rate": 16000}')
    return files_in(folder)


def test_no_pipeline_but_the_download_touches_the_network(tmp_path: Path) -> None:
    files = write_old_checkpoint(tmp_path / "encoder")
    (tmp_path / "project").mkdir()
    frontend = {"checkpoint": NAME, "architecture": None}
    folder = copy_project(tmp_path / "project", model={"frontend": frontend})
    with serving(Hub({NAME: files})) as hub:
        online = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "hub")}
        kedro = kedro_in(folder, **online)
        early = kedro("run")
        assert early.returncode == 1
        assert f"Error: encoder '{NAME}' (model.frontend.checkpoint) is no folder" in early.stdout
        assert "run first: kedro run --pipeline=download" in early.stdout
        assert "Traceback" not in early.stdout
        assert not hub.requests
        assert not list(folder.glob("data/**/*.*"))
        download = kedro("run", "--pipeline=download")
        assert download.returncode == 0, download.stdout
        for line in (f"encoder {NAME}: downloaded to", "nothing to download: prepare.synthetic makes"):
            assert line in download.stdout
        assert files_in(folder / "data/tiny/01_raw/encoders" / NAME) == files
        hub.requests.clear()
        log = tmp_path / "network.log"
        (folder / "all_but_download.py").write_text(ALL_BUT_DOWNLOAD)
        offline = online | {
            "NETWORK_LOG": str(log),
            "PYTHONPATH": f"{GUARD}{os.pathsep}{SRC}",
            "KEDRO_ENV": "tiny",
        }
        for name in ("KEDRO_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY"):
            offline[name] = ""
        run = subprocess.run(
            [sys.executable, "all_but_download.py"],
            cwd=folder,
            env=os.environ | offline,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        assert not hub.requests
    attempts = log.read_text()
    assert attempts.count("no_network/sitecustomize.py") == 1, attempts
    assert attempts.startswith("socket.getaddrinfo '127.0.0.1'"), attempts
    assert "no network in this test" in run.stdout
    assert (folder / "data/tiny/08_reporting/results.txt").is_file()
    assert list(folder.glob("data/tiny/08_reporting/score_file_metrics.json/*"))
