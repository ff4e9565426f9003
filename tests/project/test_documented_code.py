"""The documentation's code, run on the results of a whole run."""

from __future__ import annotations

import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest

from speaker_verification.common.errors import ParameterError
from tests.support.project import PROJECT, Kedro


def python_in(page: str) -> str:
    """The first block of Python of a page of documentation."""
    return (PROJECT / "docs" / page).read_text().split("```python\n", 1)[1].split("```", 1)[0]


def with_newest_versions(code: str) -> str:
    """The code for the environment `tiny`, each VERSION the newest one."""

    def newest(path: re.Match[str]) -> str:
        pattern = path[1].replace("data/demo", "data/tiny").replace("VERSION", "*")
        return f'"{max(map(str, Path().glob(pattern)))}"'

    return re.sub(r'"(data/demo/[^"]*)"', newest, code)


def recording(utterance_id: str) -> str:
    """The converted file of an utterance."""
    return str(next(Path("data/tiny/02_intermediate").glob(f"*/*/{utterance_id}")))


@pytest.fixture
def decisions(finished: tuple[Path, Kedro, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """Names defined by the code of decisions.md, run on the two sides of the lowest non-target trial."""
    monkeypatch.chdir(finished[0])
    scores = pd.read_parquet(max(Path().glob("data/tiny/07_model_output/scores.parquet/*/scores.parquet")))
    impostor = scores[scores["label"] == 0].nsmallest(1, "cosine").iloc[0]
    target = scores[scores["label"] == 1].nlargest(1, "cosine").iloc[0]
    code = with_newest_versions(python_in("decisions.md"))
    files = {"one.wav": recording(impostor["enroll_id"]), "other.wav": recording(impostor["test_id"])}
    for name, path in files.items():
        assert f'"{name}"' in code
        code = code.replace(f'"{name}"', repr(path))
    names: dict[str, object] = {"target": [recording(target[side]) for side in ("enroll_id", "test_id")]}
    with redirect_stdout(StringIO()) as printed:
        exec(compile(code, "decisions.md", "exec"), names)
    return {**names, "printed": printed.getvalue()}


def test_a_target_is_accepted_and_an_impostor_refused(decisions: dict) -> None:
    assert decisions["printed"] == "True False\n"  # as the comment beside it says
    assert decisions["same_speaker"](*decisions["target"])


def test_an_operating_point_out_of_reach_is_no_refusal(decisions: dict) -> None:
    same_speaker, OperatingPoint = decisions["same_speaker"], decisions["OperatingPoint"]
    file = decisions["target"][0]
    with pytest.raises(ParameterError, match=r"cannot reach .*p_target 0\.001, c_miss 1, c_fa 10"):
        same_speaker(file, file, OperatingPoint(p_target=0.001, c_miss=1.0, c_fa=10.0))
