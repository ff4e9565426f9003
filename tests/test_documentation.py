"""The documentation's commands, messages and pictures, held against the code."""

from __future__ import annotations

import ast
import re
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from kedro.framework.project import configure_project

from speaker_verification.cli import cli, run
from speaker_verification.common.errors import DataError
from speaker_verification.config.run_options import check_options
from speaker_verification.config.tree import check_parameters
from speaker_verification.deployment import command
from speaker_verification.reporting.published import PUBLISHED
from tests.support.config import CONF, parameters
from tests.support.documentation import DOCS, PAGES, bash_lines, commands
from tests.support.floors import SOURCE
from tests.support.project import PROJECT

SHELL = {".", "export", "step", "trap", "wait"}
OTHER_PROGRAMS = {"#SBATCH", "cat", "cp", "ls", "pip", "scontrol", "tar"}


def name_of(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


@pytest.fixture(scope="module", autouse=True)
def _configured() -> None:
    configure_project("speaker_verification")


def check_kedro(arguments: list[str]) -> None:
    """Refuse a `kedro` command whose options, names or parameters this project does not know."""
    match arguments:
        case ["run", *options]:
            chosen = run.make_context("run", options).params
            if chosen["pipeline"]:
                chosen |= {"pipeline": None, "pipelines": [chosen["pipeline"]]}
            check_options(chosen)
            check_parameters(parameters(CONF, chosen["env"], **chosen["params"]))
        case ["parameters", *names]:
            cli.commands["parameters"].main(names, standalone_mode=False)
        case ["viz", "run"] | ["viz", "build", "--include-previews"]:
            pass
        case _:
            pytest.fail(f"kedro {' '.join(arguments)}: teach this test the command")


def check_torchrun(arguments: list[str]) -> None:
    """Refuse options that torchrun does not have, and what is wrong with the command that it starts."""
    from torch.distributed.run import get_args_parser

    if arguments[-1:] == ["..."]:  # the rest is as before
        arguments = [*arguments[:-1], "--no-python", "kedro", "run"]
    numbers = [re.sub(r"\$\w+", "2", argument) for argument in arguments]
    parsed = get_args_parser().parse_args(numbers)
    assert parsed.no_python
    check([parsed.training_script, *parsed.training_script_args])


def check_python(arguments: list[str]) -> None:
    """Refuse a module that is not there."""
    if arguments[:1] == ["-m"] and arguments[1] not in ("venv", "http.server"):
        module = PROJECT / arguments[1].replace(".", "/").replace("NAME", "timing")
        assert module.with_suffix(".py").is_file(), f"no module {arguments[1]}"
    elif arguments[:1] != ["-m"]:
        assert (PROJECT / arguments[0]).is_file(), f"no file {arguments[0]}"


def check_verification(arguments: list[str]) -> None:
    """Refuse a command of `speaker-verification` whose options it does not have."""

    def load(model: str, device: object) -> None:
        raise DataError(f"{model} is not loaded here")

    command.main(arguments, load)  # exits on options that it does not know; the files are not there


def check_paths(arguments: list[str]) -> None:
    """Refuse paths of the project that are not there."""
    for argument in arguments:
        if "/" in argument or argument == "tests":
            path = argument.replace("FOLDER", "common")
            assert any(PROJECT.glob(path)), f"no {path}"


CHECKS: dict[str, Callable[[list[str]], None]] = {
    "bash": check_paths,
    "jupyter": check_paths,
    "kedro": check_kedro,
    "mlflow": lambda arguments: None,
    "mypy": check_paths,
    "pytest": check_paths,
    "python": check_python,
    "python3": check_python,
    "ruff": check_paths,
    "speaker-verification": check_verification,
    "sphinx-build": check_paths,
    "srun": lambda arguments: check(arguments),
    "torchrun": check_torchrun,
}


def check(words: list[str]) -> None:
    """Refuse a command that would not run as it stands."""
    program, *arguments = words
    if program in SHELL | OTHER_PROGRAMS:
        return
    assert program in CHECKS, f"{program}: teach this test the program"
    CHECKS[program](arguments)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_the_commands_of_a_page_would_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in bash_lines(page):
        if "=$(" in line:  # a variable of the shell
            continue
        for words in commands(line):
            try:
                check(words)
            except (Exception, SystemExit) as error:
                pytest.fail(f"{name_of(page)}: {' '.join(words)}: {error} {capsys.readouterr().err}")


def test_a_command_that_would_not_run_is_found() -> None:
    for line in (
        "kedro run --pipeline=finetun",
        "kedro run --params=finetune.batch_sise=64",
        "kedro run --params=finetune.batch_size=none",
        "kedro run --env=demonstration",
        "kedro run --params=recipe=mhfa",
        "kedro parameters scor",
        "torchrun --nproc-per-node=4 --no-python kedro run --pipeline=finetun",
        "speaker-verification verify one.wav other.wav --modell FOLDER",
        "python -m benchmarks.nothing",
        "pytest tests/nothing",
        "unheard-of program",
    ):
        (words,) = commands(line)
        with pytest.raises((Exception, SystemExit)):
            check(words)


def test_the_benchmarks_that_pages_name_are_there() -> None:
    for page in PAGES:
        for module in re.findall(r"python -m benchmarks\.(\w+)", page.read_text()):
            assert module == "NAME" or (PROJECT / f"benchmarks/{module}.py").is_file(), (
                f"{name_of(page)}: {module}"
            )


GAP = "…"


def messages_in_code() -> list[str]:
    """Texts of the code, with a gap for each value that is put in."""
    texts = []
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            match node:
                case ast.JoinedStr(values=parts):
                    texts.append(
                        "".join(part.value if isinstance(part, ast.Constant) else GAP for part in parts)
                    )
                case ast.Constant(value=str(text)):
                    texts.append(text)
    return texts


def test_the_messages_that_the_page_of_errors_quotes_are_those_of_the_code() -> None:
    quoted = re.findall(r"^### `(.+)`$", (DOCS / "errors.md").read_text(), flags=re.MULTILINE)
    texts = messages_in_code()
    assert len(quoted) > 30
    for message in quoted:
        pattern = re.compile(
            ".*".join(re.escape(part.strip()) for part in message.split(GAP)), flags=re.DOTALL
        )
        assert any(pattern.search(text) for text in texts), f"no message of the code is: {message}"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    runpy.run_path(str(DOCS / "pictures.py"))["write_pictures"](folder)
    return folder


NUMBER = re.compile(r"-?\d+\.\d+")


def test_the_pictures_are_those_that_the_code_draws(drawn: Path) -> None:
    stored = sorted(file.name for file in (DOCS / "pictures").iterdir())
    assert sorted(file.name for file in drawn.iterdir()) == stored
    for name in stored:
        told, found = ((folder / name).read_text() for folder in (DOCS / "pictures", drawn))
        assert NUMBER.sub("", told) == NUMBER.sub("", found), f"{name}: run python docs/pictures.py"
        numbers = [np.array(NUMBER.findall(text), dtype=float) for text in (told, found)]
        np.testing.assert_allclose(*numbers, atol=0.05, err_msg=f"{name}: run python docs/pictures.py")


def test_the_published_figures_of_the_recipes_are_those_of_the_report() -> None:
    rows = re.findall(r"\| (\d\.\d+) / (\d\.\d+) / (\d\.\d+)[ ,]", (DOCS / "recipes.md").read_text())
    told = {tuple(map(float, row)) for row in rows}
    assert {
        tuple(system.eers[name] for name in ("vox1_o", "vox1_e", "vox1_h")) for system in PUBLISHED
    } <= told


def test_the_numbers_that_the_page_of_scores_quotes_are_in_its_pictures() -> None:
    page = (DOCS / "scoring.md").read_text()
    for alt, picture in re.findall(r"!\[([^\]]+)\]\((pictures/\w+\.svg)\)", page):
        texts = " ".join(re.findall(r">([^<>]+)</text>", (DOCS / picture).read_text())).replace("−", "-")
        for number in re.findall(r"-?\d+\.\d+", alt):
            assert number in texts, f"{picture} shows no {number}"
