"""A plain install, without the extras: the library works where their packages are missing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from tests.support.floors import FLOORS, PACKAGE, PROJECT, SOURCE, imports_of

EXTRAS = {  # what the extras install beside the library's own dependencies, by top module
    "pipelines": ("kedro", "kedro_datasets", "kedro_viz", "mlflow", "omegaconf", "plotly"),
    "demo": ("espeakng_loader", "pyroomacoustics"),
    "lora": ("accelerate", "peft"),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "speech": ("onnxruntime", "silero_vad"),
}
WITHOUT_EXTRAS = f"""
import sys

from importlib.machinery import PathFinder

class Present(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.split(".")[0] in {[name for names in EXTRAS.values() for name in names]}:
            return None
        return super().find_spec(name, path, target)

sys.meta_path = [Present if finder is PathFinder else finder for finder in sys.meta_path]
"""
IMPORT_EVERY_MODULE = """
import importlib, pkgutil
for floor in sys.argv[1:]:
    package = importlib.import_module(f"speaker_verification.{floor}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
        print(module.name)
"""
EMBED_AND_SCORE = """
import numpy as np
import torch
from pathlib import Path
from speaker_verification import SpeakerModel
from speaker_verification.models.frontend import save_encoder
from speaker_verification.scoring import as_norm, cohort_statistics, equal_error_rate
from tests.support.tiny_models import TINY_WAVLM, tiny_settings

settings = tiny_settings(TINY_WAVLM)
folder = Path(sys.argv[1])
save_encoder(settings.frontend, folder / "encoder", seed=1)
SpeakerModel.from_encoder(folder / "encoder", settings).save_pretrained(folder / "model")
model = SpeakerModel.from_pretrained(folder / "model")
embeddings = model.embed(np.random.default_rng(0).normal(size=(6, 8000))).numpy()
enroll, test, cohort = np.split(embeddings, 3)
cosine = (enroll * test).sum(1) / np.linalg.norm(enroll, axis=1) / np.linalg.norm(test, axis=1)
scores = as_norm(cosine, *(cohort_statistics(side, cohort, 2) for side in (enroll, test)))
print(equal_error_rate(scores, [1, 0]))
"""


def run_without_extras(program: str, *arguments: str) -> str:
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS + program, *arguments],
        cwd=PROJECT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout
    return run.stdout


@pytest.mark.project
def test_every_library_floor_imports() -> None:
    imported = run_without_extras(IMPORT_EVERY_MODULE, *FLOORS).split()
    files = [file for floor in FLOORS for file in (SOURCE / floor).rglob("*.py")]
    modules = {".".join((PACKAGE, *file.relative_to(SOURCE).with_suffix("").parts)) for file in files}
    packages = {f"{PACKAGE}.{floor}" for floor in FLOORS}
    assert {*imported, *packages} == {name.removesuffix(".__init__") for name in modules}


@pytest.mark.project
def test_a_model_is_saved_loaded_embeds_and_scores(tmp_path: Path) -> None:
    eer, _ = ast.literal_eval(run_without_extras(EMBED_AND_SCORE, str(tmp_path)))
    assert eer in (0.0, 100.0)  # of one target and one non-target trial


def declared(group: str) -> set[str]:
    """Distributions of a list of pyproject.toml."""
    (listed,) = re.findall(rf"^{group} = \[$(.*?)^\]$", (PROJECT / "pyproject.toml").read_text(), re.M | re.S)
    return set(re.findall(r'^    "([\w-]+)', listed, re.M))


def test_every_package_that_the_library_imports_is_declared() -> None:
    distributions = packages_distributions()
    allowed = set().union(*map(declared, ("dependencies", *EXTRAS)))
    for file in (file for floor in FLOORS for file in (SOURCE / floor).rglob("*.py")):
        for top in {name.split(".")[0] for name in imports_of(file)} - sys.stdlib_module_names - {PACKAGE}:
            providers = {name.lower().replace("_", "-") for name in distributions[top]}
            assert providers & allowed, f"{file.name} imports {top}, which pyproject.toml does not name"
