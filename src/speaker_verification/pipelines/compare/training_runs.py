"""Data roots of the trainings that are compared: each an ordinary run with a configuration of its own.

A data root bears a fingerprint of everything that the result depends on, so that a run with other parameters
or data goes to another one. It has links to the prepared corpus, a copy of the configuration, in which the
environment holds all parameters, and `run.json`, a record of what it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from speaker_verification.common.atomic import atomic_write, remove
from speaker_verification.common.errors import DataError
from speaker_verification.common.tables import UTTERANCES
from speaker_verification.config.phases import CHECKPOINT, EVALUATION, PHASES, REPORT
from speaker_verification.config.planned_runs import PlannedRun, RunSurroundings
from speaker_verification.hooks.tracking.inputs import digest_of as row_digest
from speaker_verification.hooks.tracking.runs import COMPARISON_TAG
from speaker_verification.models.weight_files import read_json
from speaker_verification.pipelines.compare_runs.evaluations import find_evaluation, newest_version

PREPARED_LAYERS = ("01_raw", "02_intermediate", "03_primary")  # what `download` and `prepare` write
RECORD_FILE, LOG_FILE, CONF_FOLDER = "run.json", "run.log", "conf"
FINGERPRINT_BYTES = 4
CURVE_FILE = "learning_curve.parquet"  # in the folder of a phase, as in the catalog
TIMES = ("step_seconds", "data_seconds")  # metrics of a learning curve
PIPELINES = (*PHASES, EVALUATION, REPORT)


@dataclass(frozen=True)
class TrainingRun:
    """A run that is compared, in a data root of its own.

    Attributes:
        plan: system, seed and parameters.
        folder: data root of the run.
        record: values of the parameters, and digests of the tables, that the result depends on.
        surroundings: what it shares with the other runs.
    """

    plan: PlannedRun
    folder: Path
    record: Mapping[str, Any]
    surroundings: RunSurroundings

    @classmethod
    def of(
        cls, plan: PlannedRun, workspace: Path, tables: Mapping[str, str], surroundings: RunSurroundings
    ) -> TrainingRun:
        """Run in its place.

        Args:
            plan: system, seed and parameters.
            workspace: folder of all runs that are compared.
            tables: digests of the prepared tables, by name.
            surroundings: what it shares with the other runs.
        """
        record = {"parameters": plan.values(), "tables": dict(tables)}
        content = json.dumps(record, sort_keys=True).encode()
        digest = hashlib.blake2b(content, digest_size=FINGERPRINT_BYTES).hexdigest()
        folder = workspace / plan.system / f"seed_{plan.seed}_{digest}"
        return cls(plan, folder, record, surroundings)

    @property
    def log(self) -> Path:
        """Log of the run."""
        return self.folder / LOG_FILE

    def logged(self) -> str:
        """Content of the log."""
        return self.log.read_text(errors="replace") if self.log.is_file() else ""

    @property
    def seconds(self) -> float:
        """Time in s that the run has taken so far, with its evaluation; 0 before its start."""
        file = self.folder / RECORD_FILE
        return float(read_json(file)["seconds"]) if file.is_file() else 0.0

    def add_seconds(self, seconds: float) -> None:
        """Record a time that the run has taken."""
        self._write_record(self.seconds + seconds)

    def is_finished(self) -> bool:
        """Whether the model is trained, evaluated and reported on.

        Raises:
            DataError: somebody has evaluated the model with other parameters since.
        """
        try:
            evaluation = find_evaluation(self.folder, None)
        except DataError:
            return False
        made = read_json(evaluation.verdict)["parameters"]
        planned = self.record["parameters"]
        if changed := sorted(name for name in made.keys() | planned if made.get(name) != planned.get(name)):
            raise DataError(
                f"compare: the newest evaluation in {self.surroundings.portable(self.folder)} was made with "
                f"other values of {', '.join(changed)}: remove its version, or the folder to train it anew"
            )
        return True

    def first_rate(self) -> str:
        """Equal error rate on the first trial list by the scoring that decides, as text."""
        verdict = read_json(find_evaluation(self.folder, None).verdict)
        trial_list, rates = next(iter(verdict["eer"].items()))
        return f"{rates[verdict['llr']]:.2f} % on {trial_list}"

    def cost(self) -> dict[str, Any]:
        """Size of the finished model and time of its training, as a row of a table.

        Returns:
            system, seed, encoder_parameters, backend_parameters (those behind the encoder, without the head)
            and training_seconds, those of all steps and of waiting for their batches.
        """
        from speaker_verification.models.speaker_model import SpeakerModel
        from speaker_verification.training.kept_epochs import saved_model

        models = self.folder / "06_models"
        model = SpeakerModel.from_pretrained(saved_model(models / PHASES[-1] / CHECKPOINT))
        total = sum(parameter.numel() for parameter in model.parameters())
        encoder = model.frontend.encoder.num_parameters()
        curves = (newest_version(models / phase / CURVE_FILE) for phase in PHASES)
        curve = pd.concat([pd.read_parquet(file) for file in curves])
        return {
            "system": self.plan.system,
            "seed": self.plan.seed,
            "encoder_parameters": encoder,
            "backend_parameters": total - encoder,
            "training_seconds": curve.loc[curve["metric"].isin(TIMES), "value"].sum(),
        }

    def prepare(self) -> None:
        """Write the data root as far as the run needs it: links, configuration and record."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for layer in PREPARED_LAYERS:
            shared, link = self.surroundings.data_root / layer, self.folder / layer
            if shared.is_dir():
                remove(link)
                link.symlink_to(os.path.relpath(shared, self.folder))
        self._write_configuration()
        self._write_record(self.seconds)

    def command(self, num_processes: int = 1) -> list[str]:
        """Command that trains, evaluates and reports what is missing, from the folder of the project.

        Args:
            num_processes: processes that torchrun starts; 1: one, without torchrun.
        """
        conf = self.surroundings.portable(self.folder / CONF_FOLDER)
        run = [sys.executable, "-m", "speaker_verification", f"--conf-source={conf}"]
        run += [f"--env={self.surroundings.environment}", f"--pipelines={','.join(PIPELINES)}"]
        run += ["--only-missing-outputs"]
        if num_processes == 1:
            return run
        launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={num_processes}"]
        return [sys.executable, "-m", *launcher, "--no-python", *run]

    def _write_record(self, seconds: float) -> None:
        with atomic_write(self.folder / RECORD_FILE) as part:
            part.write_text(json.dumps({**self.record, "seconds": seconds}, indent=2) + "\n")

    def _write_configuration(self) -> None:
        """The configuration of the project, with an environment that holds all parameters of the run."""
        of, conf = self.surroundings, self.folder / CONF_FOLDER
        tracking = of.settings["tracking"]
        tags = {**tracking.get("tags", {}), COMPARISON_TAG: of.portable(self.folder.parents[1])}
        with atomic_write(conf) as part:
            for folder in ("base", "recipes"):
                shutil.copytree(of.conf / folder, part / folder)
            for file in of.conf.glob("*.yml"):
                shutil.copy(file, part)
            own = part / of.environment
            own.mkdir(exist_ok=True)
            for file in (of.conf / of.environment).glob("catalog*"):
                shutil.copy(file, own)
            for name, values in {
                "parameters": self.plan.parameters,
                "globals": {**of.settings["globals"], "data_root": of.portable(self.folder)},
                "tracking": {**tracking, "tags": tags},
            }.items():
                written = yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True)
                (own / f"{name}.yml").write_text(f"# {self.plan.name}, by --pipeline=compare\n{written}")


def changed_parameters(runs: Sequence[TrainingRun]) -> list[str]:
    """Parameters and tables in which earlier runs of the same systems and seeds differ from these."""
    changed: dict[str, None] = {}
    for run in runs:
        earlier = [*run.folder.parent.glob(f"seed_{run.plan.seed}_*/{RECORD_FILE}")]
        if run.folder.is_dir() or not earlier:
            continue
        newest = read_json(max(earlier, key=lambda file: file.stat().st_mtime))
        for group in ("parameters", "tables"):
            before, now = newest[group], run.record[group]
            changed |= dict.fromkeys(
                name for name in before.keys() | now if before.get(name) != now.get(name)
            )
    return sorted(changed)


def digest_of(table: pd.DataFrame) -> str:
    """Digest of a prepared table, wherever its files are."""
    content = table.drop(columns=[*UTTERANCES.defaults], errors="ignore")
    if "path" in content:
        content = content.assign(path=content["path"].map(os.path.basename))
    return row_digest(content)
