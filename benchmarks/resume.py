"""A phase killed (-9) at random moments and resumed, beside the same phase undisturbed.

    python -m benchmarks.resume --env=demo --params=finetune.epochs=5
    python -m benchmarks.resume --env=mini --params=prepare.mirror=FOLDER,finetune.save_every_steps=7

Both start from copies of one project folder in which all that comes before has been run. Every second kill
waits for a save to be under way. Then weights, metrics and learning curve are compared, and what MLflow
holds; timings apart. Memory is what the undisturbed phase holds resident after each epoch; for that of twenty
epochs say `--params=finetune.epochs=20 --kills=0`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import yaml

from speaker_verification.hooks.tracking.system_metrics import PREFIX

PROJECT = Path(__file__).parents[1]
BEFORE = {
    "pretrain": "prepare.hold_out_validation",
    "finetune": "pretrain.train_phase",
    "lmft": "finetune.train_phase",
}
SPREAD = 1.5  # longest wait for a kill, to an even share of the undisturbed training


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--env", default="demo", help="environment")
    parser.add_argument("--params", default="", help="as for kedro run")
    parser.add_argument("--phase", default="finetune", choices=["pretrain", "finetune", "lmft"])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--folder", type=Path, help="to work in, kept; a prepared one in it is used again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return _compare(arguments, arguments.folder or Path(temporary))


def _compare(arguments: argparse.Namespace, folder: Path) -> int:
    prepared = Phase(folder / "prepared", arguments)
    if not prepared.project.exists():
        prepared.prepare()
    undisturbed = prepared.copy(folder / "undisturbed")
    started = time.perf_counter()
    resident: list[int] = []
    undisturbed.run(on_epoch=lambda process: resident.append(_resident_megabytes(process.pid)))
    whole_seconds = time.perf_counter() - started
    _say("undisturbed", f"{whole_seconds:.1f} s, {undisturbed.training_seconds:.1f} s of it training")
    _say("resident memory", f"MiB after each epoch: {' '.join(map(str, resident))}")
    if not arguments.kills:
        return 0
    killed = prepared.copy(folder / "killed")
    draw = random.Random(arguments.seed)
    for number in range(1, arguments.kills + 1):
        delay = draw.uniform(0, SPREAD * undisturbed.training_seconds / arguments.kills)
        while_saving = number % 2 == 0
        killed.run(kill_after=delay, while_saving=while_saving)
        where = f"{delay:.1f} s into training{', then in a save' if while_saving else ''}"
        _say(f"kill {number}", f"{where}; {killed.begun}")
    killed.run()
    alike = True
    ours, theirs = killed.results(), undisturbed.results()
    for name in sorted({*ours, *theirs}):
        alike &= (same := ours.get(name) == theirs.get(name))
        _say(name, "identical" if same else "DIFFERS")
    _say("runs in MLflow", killed.statuses())
    return 0 if alike else 1


class Phase:
    """A phase in a project folder of its own."""

    def __init__(self, project: Path, arguments: argparse.Namespace) -> None:
        self.project = project
        self.training_seconds = 0.0
        self.begun = ""  # step, as the phase logs it
        self._arguments = arguments
        globals_file = PROJECT / "conf" / arguments.env / "globals.yml"
        self._models = project / yaml.safe_load(globals_file.read_text())["data_root"] / "06_models"

    def prepare(self) -> None:
        """Run all that the phase starts from."""
        self.project.mkdir(parents=True)
        shutil.copytree(PROJECT / "conf", self.project / "conf")
        shutil.copy(PROJECT / "pyproject.toml", self.project)
        (self.project / "src").mkdir()  # the package itself is the installed one
        subprocess.run(
            self._command(f"--to-nodes={BEFORE[self._arguments.phase]}"),
            cwd=self.project,
            check=True,
            stdout=subprocess.DEVNULL,
        )

    def copy(self, project: Path) -> Phase:
        """The same, to be run on its own."""
        shutil.rmtree(project, ignore_errors=True)
        shutil.copytree(self.project, project)
        return Phase(project, self._arguments)

    def run(
        self,
        kill_after: float | None = None,
        while_saving: bool = False,
        on_epoch: Callable[[subprocess.Popen[str]], None] = lambda _: None,
    ) -> None:
        """Run the phase to its end, or kill it so many seconds after its training has begun."""
        command = self._command(f"--pipeline={self._arguments.phase}")
        with subprocess.Popen(
            command, cwd=self.project, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            assert process.stdout is not None
            printed = ""
            for line in process.stdout:
                printed += line
                if begun := re.search(r" 0/\d+  EER|resuming from step \d+", line):
                    began = time.perf_counter()
                    self.begun = begun[0]
                    if kill_after is not None:
                        self._kill(process, kill_after, while_saving)
                        return
                if re.search(r" [1-9]\d*/\d+  EER", line):
                    on_epoch(process)
                    self.training_seconds = time.perf_counter() - began
        if process.returncode:
            raise SystemExit(printed)

    def _kill(self, process: subprocess.Popen[str], after: float, while_saving: bool) -> None:
        time.sleep(after)
        saving = self._models / self._arguments.phase / "workspace" / ".checkpoint.resume.part"
        while while_saving and not saving.exists() and process.poll() is None:
            time.sleep(0.0005)
        if process.poll() is not None:
            raise SystemExit("the phase ended before it could be killed: give it more epochs, or fewer kills")
        process.kill()

    def results(self) -> dict[str, Any]:
        """Checkpoint files, learning curve and tracked metrics of the phase, by name."""
        phase = self._models / self._arguments.phase
        checkpoint = _newest(phase / "checkpoint")
        found: dict[str, Any] = {}
        for file in sorted(checkpoint.rglob("*.*")):
            content: Any = file.read_bytes()
            if file.name == "run.json":
                content = json.loads(content)
                content["metrics"] = _untimed(content["metrics"])
                del content["start"], content["tracking"]  # a run of its own in MLflow
            if file.name == "phase.json":
                content = json.loads(content)
                curve = content["progress"]["curve"]
                content["progress"]["curve"] = [r for r in curve if not r["metric"].endswith("seconds")]
                del content["fingerprint"]["start"]
            found[str(file.relative_to(checkpoint))] = content
        curve = pd.read_parquet(_newest(phase / "learning_curve.parquet"))
        rows = {f"{row.epoch} {row.metric}": row.value for row in curve.itertuples()}
        found["learning_curve.parquet"] = _untimed(rows)
        found["MLflow's curves"] = self._tracked()
        return found

    def statuses(self) -> str:
        """MLflow's status of each run of the phase."""
        return ", ".join(run.info.status for run in self._runs())

    def _tracked(self) -> dict[str, Any]:
        client, run = self._client(), self._runs()[0]
        names = _untimed(run.data.metrics)
        return {
            name: [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]
            for name in names
        }

    def _runs(self) -> list[Any]:
        client = self._client()
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        stage = f"tags.stage = '{self._arguments.phase}'"
        return client.search_runs(experiments, stage, order_by=["attributes.start_time DESC"])

    def _client(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(f"sqlite:///{self.project / 'mlflow.db'}")

    def _command(self, which: str) -> list[str]:
        given = [f"--params={self._arguments.params}"] if self._arguments.params else []
        return [sys.executable, "-m", "kedro", "run", f"--env={self._arguments.env}", which, *given]


def _newest(dataset: Path) -> Path:
    return sorted(dataset.iterdir())[-1] / dataset.name


def _untimed(values: dict[str, float]) -> dict[str, float]:
    """Values without times and without metrics of the machine."""
    return {
        name: value
        for name, value in values.items()
        if not (name.endswith("seconds") or name.startswith(PREFIX))
    }


def _resident_megabytes(process_id: int) -> int:
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 2**20


def _say(what: str, how: str) -> None:
    sys.stdout.write(f"{what:40} {how}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
