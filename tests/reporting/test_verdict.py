from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from speaker_verification.models.settings import CONFIG_FILE, WEIGHTS_FILE, ModelSettings
from speaker_verification.training.kept_epochs import RANKING_FILE, RUN_FILE

DESCRIBE = """
import sys
from pathlib import Path

from speaker_verification.reporting.verdict import EvaluatedModel
from speaker_verification.training.kept_epochs import best_checkpoint

model = EvaluatedModel.of(best_checkpoint(Path(sys.argv[1])), embedding_size=96, trained_here=True)
print(model.name, model.encoder, model.speaker_network, model.seed, sep="; ")
print("transformers" in sys.modules)
"""


@pytest.mark.project
def test_best_model_of_a_phase_is_described_without_transformers_and_without_weights(tmp_path: Path) -> None:
    folder = tmp_path / "epoch_03"
    folder.mkdir()
    saved = {
        "model": ModelSettings().model_dump(mode="json"),
        "encoder": {"model_type": "wavlm", "num_hidden_layers": 24},
    }
    (folder / CONFIG_FILE).write_text(json.dumps(saved))
    (folder / WEIGHTS_FILE).touch()
    (folder / RUN_FILE).write_text(json.dumps({"seed": 7}))
    (tmp_path / RANKING_FILE).write_text(json.dumps([{"epoch": 3, "folder": "epoch_03", "eer": 1.0}]))
    command = [sys.executable, "-c", DESCRIBE, str(tmp_path)]
    run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    assert run.stdout == "epoch_03; microsoft/wavlm-large; astp; 7\nFalse\n"
