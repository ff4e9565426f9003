"""Calibration across sessions, and adaptation to another domain: actual over least costs.

    python -m benchmarks.calibration FOLDER --test-channels telephone --seeds 41 42 43

Synthetic speakers, each session of whom has a channel of its own: microphones in VoxCeleb2, which trains the
model and is cohort and calibration set; those of `--test-channels` in VoxCeleb1, of which one part is tested
and the other adapted to, without labels. For each seed the demo is trained anew in FOLDER, where a repeated
call finds it again, and scored in four ways. The table has medians over the seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from benchmarks.timing import say

PROJECT = Path(__file__).parents[1]
SYNTHETIC = {
    "vox1_dev_speakers": 30,
    "vox1_test_speakers": 40,
    "vox2_dev_speakers": 80,
    "vox2_test_speakers": 2,
    "sessions": 3,
    "training_utterances": 9,
    "test_utterances": 9,
    "target_trials": 2000,
    "nontarget_trials": 20_000,
    "training_channels": "microphone",
}
WAYS: dict[str, dict[str, str]] = {
    "any sessions": {},
    "across sessions": {"calibration_sessions": "across"},
    "across, centre adapted": {"calibration_sessions": "across", "adaptation": "centre"},
    "across, adapted by CORAL": {"calibration_sessions": "across", "adaptation": "coral"},
}
TRIAL_LIST, COSTS = "vox1_o", ("p05", "p5")


def write_environment(folder: Path, name: str, seed: int, test_channels: str) -> None:
    """Configuration of the project with an environment of the demo's parameters and these."""
    if not (folder / "conf").is_dir():
        shutil.copytree(PROJECT / "conf", folder / "conf", ignore=shutil.ignore_patterns("credentials*"))
        shutil.copy(PROJECT / "pyproject.toml", folder)
        (folder / "src").mkdir()
    environment = folder / "conf" / name
    shutil.copytree(folder / "conf" / "demo", environment, dirs_exist_ok=True)
    parameters = yaml.safe_load((environment / "parameters.yml").read_text())
    parameters["seed"] = parameters["prepare"]["seed"] = seed
    parameters["prepare"]["trial_lists"] = [TRIAL_LIST]
    parameters["prepare"]["synthetic"] = SYNTHETIC | {"test_channels": test_channels}
    parameters["finetune"]["steps_per_epoch"] = 80
    parameters["embed"]["adaptation_set"] = "vox1-dev"
    parameters["score"] |= {"calibration_trials": 10_000, "p_targets": [0.05, 0.5]}
    (environment / "parameters.yml").write_text(yaml.safe_dump(parameters))
    (environment / "globals.yml").write_text(f"data_root: data/{name}\n")


def measure(folder: Path, seed: int, test_channels: str) -> dict[str, dict[str, Any]]:
    """Metrics by way and scoring."""
    name = f"{test_channels}_{seed}"
    results = folder / "data" / name
    write_environment(folder, name, seed, test_channels)

    def kedro(pipeline: str, *options: str) -> None:
        arguments = ["run", f"--env={name}", f"--pipeline={pipeline}", *options]
        subprocess.run([sys.executable, "-m", "kedro", *arguments], cwd=folder, check=True)

    done = results / "embedded"
    if not done.exists():
        for pipeline in ("prepare", "pretrain", "finetune", "lmft", "embed"):
            kedro(pipeline)
        done.touch()
    found = {}
    for way, settings in WAYS.items():
        kedro(
            "score",
            *([f"--params={','.join(f'score.{k}={v}' for k, v in settings.items())}"] if settings else []),
        )
        file = max((results / "08_reporting" / "metrics.json").glob("*/metrics.json"))
        found[way] = json.loads(file.read_text())[TRIAL_LIST]
    return found


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--test-channels", choices=("microphone", "telephone"), default="telephone")
    parser.add_argument("--seeds", type=int, nargs="+", default=[41, 42, 43])
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    runs = [measure(arguments.folder, seed, arguments.test_channels) for seed in arguments.seeds]
    say("| calibration | scoring | EER % | actual / least cost at 0.05 | at 0.5 | Cllr / minCllr |")
    say("| --- | --- | --- | --- | --- | --- |")
    for way in WAYS:
        for scoring in runs[0][way]:
            rates = [run[way][scoring] for run in runs]
            over = [np.median([rate[f"act_dcf_{p}"] / rate[f"min_dcf_{p}"] for rate in rates]) for p in COSTS]
            over.append(np.median([rate["cllr"] / rate["min_cllr"] for rate in rates]))
            eer = np.median([rate["eer"] for rate in rates])
            say(f"| {way} | {scoring} | {eer:.1f} | " + " | ".join(f"{ratio:.2f}" for ratio in over) + " |")


if __name__ == "__main__":
    main()
