"""Kills of `kedro run` in several processes, at random moments of training and embedding.

    python -m benchmarks.kills_of_processes [--kills 10] [--seed 0] [--folder FOLDER]

Three series in copies of one small project: training with two processes in every start, training with two,
one and three in turn, and embedding with two, one and three in turn. A kill (signal 9) takes one process, all
of them, or torchrun alone, at a moment of the whole run or, every second time, of its training or embedding.
The same command starts again until it ends; then the next round begins from a fresh copy. Compared with
undisturbed runs are weights, learning curves and MLflow's metrics, and embedding stores byte by byte.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from safetensors.torch import load_file
from tests.support.project import copy_project, tell_of_nodes
from tests.support.torchrun import Torchrun
from tests.support.tracked import client_of, runs_of
from torch import Tensor

from speaker_verification.common.distributed import JOIN_SECONDS
from speaker_verification.hooks.tracking.results import epoch_metric_name
from speaker_verification.hooks.tracking.system_metrics import PREFIX
from speaker_verification.models.weight_files import read_torch_file

LIMIT_SECONDS = 30.0  # in which all processes end after a kill; without torchrun they may be about to join
TOLERANCE = 1e-4  # of weights and figures of other numbers of processes
POLL_SECONDS = 0.02
# Without dropouts, which N processes draw otherwise; with Adam, gradients of rounding alone make whole steps.
CHANGES: dict[str, Any] = {
    "prepare": {
        "synthetic": {"vox2_dev_speakers": 24, "training_utterances": 10, "test_utterances": 8},
    },
    "model": {
        "layer_aggregation": {"lap": {"dropout": 0.0}},
        "speaker_network": {"astp": {"dropout": 0.0}},
    },
    "pretrain": {
        "epochs": 5,
        "steps_per_epoch": 30,
        "batch_size": 6,
        "save_every_steps": 4,
        "num_workers": 1,
        "average_best": 2,
        "optimiser": {"kind": "sgd", "weight_decay": 0.0},
        "gradient_clip_norm": 1.0,
        "learning_rate": {"maximum": 1e-3, "minimum": 1e-4},
    },
    "embed": {"num_workers": 1, "num_crops": 40, "save_every_seconds": 60.0},
}
DATA, PHASE = Path("data/tiny"), Path("data/tiny/06_models/pretrain")
TRAIN, EMBED = ("run", "--pipeline=pretrain"), ("run", "--pipeline=embed")
STORES = ("embeddings", "cohort_embeddings")
BEGUN = re.compile(r" 0/\d+  EER|resuming from|Running node: embed_")  # what is killed has begun
DOING = re.compile(r"Running node: (\w+)|(\d+/\d+)  EER|(resuming from step \d+)|(finished before)")


@dataclass
class Start:
    """One start of the command, to its end or to a kill.

    Attributes:
        size: number of processes.
        killed: whom the kill took; empty where the run had ended before.
        moment: time of the kill in s.
        ended_seconds: time after the kill in which all processes had ended.
        printed: what the run printed.
        fault: something that must not be.
    """

    size: int
    killed: str = ""
    moment: float = 0.0
    ended_seconds: float = 0.0
    printed: str = ""
    fault: str = ""

    @property
    def doing(self) -> str:
        """The last of what the run had told of."""
        told = [next(filter(None, groups)) for groups in DOING.findall(self.printed)]
        return told[-1] if told else "starting"


@dataclass
class Pieces:
    """Pieces of embeddings in a workspace, as seen while runs write and delete them.

    Attributes:
        kept: inode and time of change of the pieces there are.
        again: pieces that a run has written although they were kept.
    """

    folder: Path
    kept: dict[str, tuple[int, int]] = field(default_factory=dict)
    again: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> threading.Thread:
        """Thread that looks until `stop`."""
        self._stop.clear()
        thread = threading.Thread(target=self._watch)
        thread.start()
        return thread

    def stop(self, thread: threading.Thread) -> None:
        """End a thread of `watch`."""
        self._stop.set()
        thread.join()

    def _watch(self) -> None:
        before, counted = self._look(), set[str]()
        while not self._stop.wait(POLL_SECONDS):
            self.kept = self._look()
            changed = {name for name in before if self.kept.get(name, before[name]) != before[name]} - counted
            self.again += len(changed)
            counted |= changed

    def _look(self) -> dict[str, tuple[int, int]]:
        found = {}
        for folder, _, names in os.walk(self.folder):  # unlike glob it endures folders that vanish
            for file in (Path(folder, name) for name in names if name.endswith(".npy")):
                with suppress(FileNotFoundError):
                    stat = file.stat()
                    found[str(file.relative_to(self.folder))] = (stat.st_ino, stat.st_mtime_ns)
        return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each series")
    parser.add_argument("--seed", type=int, default=0, help="of moments and victims")
    parser.add_argument("--folder", type=Path, help="to work in, kept; what is prepared in it is used again")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return _run(arguments, arguments.folder or Path(temporary))


def _run(arguments: argparse.Namespace, folder: Path) -> int:
    prepared = folder / "prepared"
    if not prepared.exists():
        tell_of_nodes(copy_project(_made(prepared), **CHANGES))
        _undisturbed(prepared, 1, "run", "--pipeline=prepare")
    trained = _copy(prepared, folder / "trained")
    training = _undisturbed(trained, 2, *TRAIN)
    model = next(trained.glob(f"{PHASE}/checkpoint/*/checkpoint/average"))
    embed = (*EMBED, f"--params=embed.model={model}")
    embedded = _copy(prepared, folder / "embedded")
    embedding = _undisturbed(embedded, 1, *embed)
    _say(f"undisturbed: training {training.whole:.1f} s, {training.work:.1f} s of it after its start")
    _say(f"undisturbed: embedding {embedding.whole:.1f} s, {embedding.work:.1f} s of it after its start")
    faults = 0
    for name, command, sizes, lasts, judge in (
        ("train 2", TRAIN, (2,), training, lambda project: _judge_training(project, trained, True)),
        ("train 2 1 3", TRAIN, (2, 1, 3), training, lambda project: _judge_training(project, trained, False)),
        ("embed 2 1 3", embed, (2, 1, 3), embedding, lambda project: _judge_stores(project, embedded)),
    ):
        draw = random.Random(f"{arguments.seed} {name}")
        _say(f"\n{name}\n{'kill':>4} {'N':>2} {'at':>7} {'whom':10} {'during':24} {'all ended':>9}  kept")
        number, size = 0, cycle(sizes)
        while number < arguments.kills:
            # A name of its own: MLflow keeps the database of a name open, also when it has been replaced.
            project, ended = _copy(prepared, folder / f"{name} {number}".replace(" ", "_")), False
            pieces = Pieces(project / DATA / "07_model_output/workspace")
            while not ended:
                begun = bool(number % 2)
                moment = draw.uniform(0, lasts.work if begun else lasts.whole)
                if number == arguments.kills:
                    begun, moment = False, float("inf")
                start = _start(project, next(size), command, begun, moment, draw, pieces)
                number += bool(start.killed)
                ended = not start.killed or _is_saved(project)
                faults += bool(start.fault)
                _say(
                    f"{number if start.killed else 'none':>4} {start.size:2} {start.moment:5.1f} s "
                    f"{start.killed:10} {start.doing:24} {start.ended_seconds:7.1f} s  "
                    f"{_kept(project, pieces)} {start.fault}"
                )
            verdict, good = judge(project)
            good &= pieces.again == 0
            faults += not good
            shutil.rmtree(project)
            _say(f"     {'' if good else 'FAULT: '}{verdict}; {pieces.again} kept pieces embedded again")
    _say(f"\n{faults} faults")
    return 1 if faults else 0


def _start(
    project: Path,
    size: int,
    command: tuple[str, ...],
    begun: bool,
    moment: float,
    draw: random.Random,
    pieces: Pieces,
) -> Start:
    """Start a command and kill it at a moment, of the whole or once its work has begun, or let it end."""
    log, start = project / "printed.txt", Start(size)
    watching = pieces.watch()
    with log.open("w") as output:
        began = time.monotonic()
        running = Torchrun(project, size, *command, output=output)
        limit = began + moment
        while running.poll() is None and (begun or time.monotonic() < limit):
            if begun:
                begun = not BEGUN.search(log.read_text())
                limit = time.monotonic() + moment
            time.sleep(POLL_SECONDS)
        if running.poll() is None:
            start.moment = time.monotonic() - began
            start.killed = _kill(running, draw)
            killed = time.monotonic()
            limit = killed + LIMIT_SECONDS + JOIN_SECONDS * (start.killed == "torchrun")
            while running.living() and time.monotonic() < limit:
                running.poll()
                time.sleep(POLL_SECONDS)
            start.ended_seconds = time.monotonic() - killed
    pieces.stop(watching)
    start.printed = log.read_text()
    if orphans := running.living():
        start.fault = f"FAULT: processes {sorted(orphans)} live"
        for pid in orphans:
            os.kill(pid, signal.SIGKILL)
    elif bool(running.wait()) != bool(start.killed):
        start.fault = f"FAULT: exit status {running.returncode}\n{start.printed}"
    return start


def _kill(running: Torchrun, draw: random.Random) -> str:
    """Kill one worker, all, or the launcher; name whom."""
    workers = running.workers()
    whom = draw.choice([*(f"rank {rank}" for rank in workers), "all", "torchrun"]) if workers else "all"
    if whom.startswith("rank"):
        victims = [workers[int(whom.split()[1])]]
    else:
        victims = [running.pid, *(workers.values() if whom == "all" else ())]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    return whom


def _is_saved(project: Path) -> bool:
    """Whether a phase has been handed on, after which the same command begins a new one."""
    return any(project.glob(f"{PHASE}/checkpoint/*/checkpoint/ranking.json"))


def _kept(project: Path, pieces: Pieces) -> str:
    """State that the next start resumes from, as a phrase."""
    state = project / PHASE / "workspace/checkpoint.resume"
    if state.exists():
        return f"step {read_torch_file(state)['progress']['step']}"
    return f"{len(pieces.kept)} pieces" if pieces.kept else "nothing"


def _judge_training(project: Path, undisturbed: Path, exactly: bool) -> tuple[str, bool]:
    """Figures of a phase that was killed, and whether they are those of the undisturbed one."""
    ours, theirs = _curve(project), _curve(undisturbed)
    worst = float((ours / theirs - 1).abs().max()) if ours.index.equals(theirs.index) else float("inf")
    weights, others = _weights(project), _weights(undisturbed)
    moved = {name: (weights[name].double() - tensor.double()).abs().max() for name, tensor in others.items()}
    largest = max(float(tensor.double().abs().max()) for tensor in others.values())
    difference = float(max(moved.values())) / largest if weights.keys() == others.keys() else float("inf")
    runs = [run for run in runs_of(project) if run.data.tags.get("stage") == "pretrain"]
    trained = [run for run in runs if epoch_metric_name("loss") in run.data.metrics]
    statuses = " ".join(sorted(run.info.status for run in runs))
    named = ours.rename(index=epoch_metric_name, level="metric").sort_index()
    tracked = len(trained) == 1 and _history(project, trained[0].info.run_id).equals(named)
    # Those that ended before their first save have no loss: the phase began anew in a run of its own.
    unended = sum(run.info.status not in ("FINISHED", "FAILED", "KILLED") for run in runs)
    limit = 0.0 if exactly else TOLERANCE
    good = max(worst, difference) <= limit and tracked and not unended and ours.index.is_unique
    return (
        f"weights differ by {difference:.1e} of the largest, the {len(ours)} figures by {worst:.1e} of each; "
        f"MLflow: {statuses}, {'the figures once each' if tracked else 'OTHER FIGURES'}"
    ), good


def _curve(project: Path) -> pd.Series:
    """Learning curve by epoch and metric."""
    file = sorted(project.glob(f"{PHASE}/learning_curve.parquet/*/*.parquet"))[-1]
    curve = pd.read_parquet(file)
    curve = curve[~curve["metric"].str.endswith("seconds")]
    return curve.set_index(["metric", "epoch"])["value"].sort_index()


def _history(project: Path, run_id: str) -> pd.Series:
    """All points of a run's metrics, as `_curve` with their names in MLflow."""
    client = client_of(project)
    points = [
        (name, point.step, point.value)
        for name in client.get_run(run_id).data.metrics
        if not (name.endswith("seconds") or name.startswith(PREFIX))
        for point in client.get_metric_history(run_id, name)
    ]
    table = pd.DataFrame(points, columns=["metric", "epoch", "value"])
    return table.set_index(["metric", "epoch"])["value"].sort_index()


def _weights(project: Path) -> dict[str, Tensor]:
    """Weights of all kept checkpoints of a phase."""
    folder = sorted(project.glob(f"{PHASE}/checkpoint/*/checkpoint"))[-1]
    return {
        f"{file.parent.name} {file.stem} {name}": tensor
        for file in folder.glob("*/*.safetensors")
        for name, tensor in load_file(file).items()
        if tensor.is_floating_point()
    }


def _judge_stores(project: Path, undisturbed: Path) -> tuple[str, bool]:
    ours, theirs = _stores(project), _stores(undisturbed)
    same = ours == theirs
    left = [*(project / DATA / "07_model_output/workspace").iterdir()]
    verdict = f"{len(ours)} files of stores {'identical' if same else 'DIFFER'}, {len(left)} pieces left"
    return verdict, same and not left


def _stores(project: Path) -> dict[str, bytes]:
    """Newest version of each embedding store, by file."""
    found = {}
    for name in STORES:
        folder = sorted((project / DATA / "07_model_output" / name).iterdir())[-1] / name
        found |= {f"{name}/{file.name}": file.read_bytes() for file in folder.iterdir()}
    return found


class Duration(NamedTuple):
    """Seconds of a run: of the whole, and of its training or embedding."""

    whole: float
    work: float


def _undisturbed(project: Path, size: int, *command: str) -> Duration:
    """Duration of a run that ends well."""
    started = begun = time.monotonic()
    printed = ""
    with Torchrun(project, size, *command) as running:
        assert running.stdout is not None
        for line in running.stdout:
            printed += line
            if BEGUN.search(line) and begun == started:
                begun = time.monotonic()
    if running.returncode:
        raise SystemExit(printed)
    ended = time.monotonic()
    return Duration(ended - started, ended - begun)


def _copy(prepared: Path, project: Path) -> Path:
    shutil.rmtree(project, ignore_errors=True)
    shutil.copytree(prepared, project)
    return project


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
