"""The documentation's code, run on the results of a whole run."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from speaker_verification.common.errors import ParameterError
from speaker_verification.corpora.synthetic.voices import draw_voices, speak
from tests.support.documentation import DOCS, blocks
from tests.support.processes import free_port
from tests.support.project import Kedro
from tests.support.recordings import FORMATS, encoded
from tests.support.waiting import wait_until

SERVES = "mlflow models serve"  # a command that does not end by itself
PORT = 5000  # of its server, in place of which the test takes a free one


def python_in(page: str) -> str:
    """The first block of Python of a page of documentation."""
    return next(code for language, code in blocks(DOCS / page) if language == "python")


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


@pytest.fixture
def engineer(finished_copy: tuple[Path, Kedro], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Current folder: that of a run, with the recordings that the page names and the command."""
    folder, _ = finished_copy
    monkeypatch.chdir(folder)
    Path("data/demo").symlink_to("tiny")
    utterances = pd.read_parquet("data/demo/02_intermediate/utterances.parquet")
    tested = utterances[utterances["subset"] == "vox1-test"].nlargest(8, "duration_seconds")
    anna, other = tested["speaker_id"].unique()[:2]
    paths = [Path("data/demo") / path for path in tested[tested["speaker_id"] == anna]["path"]]
    for name, path in zip(("anna1.m4a", "anna2.m4a"), paths, strict=False):
        samples, rate = soundfile.read(path)
        Path(name).write_bytes(encoded(samples[None], rate, *FORMATS["m4a"]))
    stranger = Path("data/demo") / tested[tested["speaker_id"] == other]["path"].iloc[0]
    Path("call.wav").write_bytes(stranger.read_bytes())
    Path("pairs.csv").write_text("enrol,test\nanna1.m4a,anna2.m4a\nanna1.m4a,call.wav\n")
    write_known_speakers(Path("recordings.csv"))
    best = max(Path().glob("data/demo/06_models/lmft/checkpoint/*/checkpoint/epoch_*"))
    Path("model").symlink_to(best)
    Path("bin").mkdir()
    command = Path("bin/speaker-verification")  # as pip writes it
    main = "from speaker_verification.command_line import main"
    command.write_text(f"#!{sys.executable}\nimport sys\n{main}\nsys.exit(main())\n")
    command.chmod(0o755)
    here = [str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(here))
    monkeypatch.setenv("KEDRO_ENV", "tiny")
    return folder


def write_known_speakers(table: Path) -> None:
    """Two recordings of each of twelve synthetic speakers, and their table."""
    rng = np.random.default_rng(0)
    rows = []
    for speaker, voice in enumerate(draw_voices(12, rng)):
        for number in range(2):
            said, name = speak(voice, 2.0, rng), f"speaker{speaker}_{number}.flac"
            soundfile.write(name, 0.5 * said / np.abs(said).max(), 16_000)
            rows.append((name, f"speaker{speaker}"))
    pd.DataFrame(rows, columns=["file", "speaker"]).to_csv(table, index=False)


def run_commands(code: str) -> None:
    """Run the lines of a block in a shell."""
    ran = subprocess.run(
        ["bash", "-euc", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert ran.returncode == 0, f"{code}\n{ran.stdout}"


@contextmanager
def serving(command: str, port: int) -> Iterator[None]:
    """A command's server, from its first answer to the end of the block."""
    server = subprocess.Popen(
        ["bash", "-c", command], env=os.environ | {"MLFLOW_PORT": str(port)}, start_new_session=True
    )

    def answers() -> bool:
        assert server.poll() is None, command
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping") as answer:
                return answer.status == 200
        except OSError:
            return False

    try:
        wait_until(answers, seconds=300)
        yield
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def test_every_command_and_snippet_of_the_engineer_s_page_runs_in_its_order(
    engineer: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = free_port()
    names: dict[str, object] = {}
    untested = []
    with ExitStack() as servers:
        for language, code in blocks(DOCS / "deployment.md"):
            match language:
                case "python":
                    own_port = code.replace(f"127.0.0.1:{PORT}", f"127.0.0.1:{port}")
                    exec(compile(own_port, "deployment.md", "exec"), names)
                case "bash":
                    lines = code.splitlines()
                    run_commands("\n".join(line for line in lines if SERVES not in line))
                    for line in lines:
                        if SERVES in line:
                            servers.enter_context(serving(line, port))
                case "bash untested":
                    untested += [line.split()[:2] for line in code.splitlines()]
                case _:
                    assert language == "text"
    assert untested == [["docker", "build"], ["docker", "run"]]  # for want of a network
    assert pd.read_csv("scores.csv")["llr"].notna().tolist() == [True, True]
    assert len(pd.read_parquet("embeddings.parquet")) == 3
    assert "Anna" in capsys.readouterr().out
