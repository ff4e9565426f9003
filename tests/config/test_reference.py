"""One description of each parameter: its field's. Files and commands repeat it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from speaker_verification.cli import cli
from speaker_verification.config.reference import list_parameters
from tests.support.parameter_reference import DOCUMENT, FILES, commented, document

WRITE = "python -m tests.support.parameter_reference"


def test_every_parameter_has_a_description_that_names_the_thing() -> None:
    for parameter in list_parameters():
        if not parameter.is_group:
            assert parameter.description, parameter.name
            first = parameter.description.split()[0].lower()
            assert first not in ("what", "where", "how", "which", "that", "whose", "of", "as"), parameter.name


def test_ranges_and_choices_are_those_of_the_fields() -> None:
    values = {parameter.name: parameter.values for parameter in list_parameters()}
    assert values["download.num_parallel"] == "1 to 16"
    assert values["download.timeout_seconds"] == "above 0"
    assert values["model.frontend.regularisation.dropout"] == "0 to below 1"
    assert values["score.calibration_prior"] == "between 0 and 1"
    assert values["score.calibration_trials"] == "a multiple of 2"
    assert values["PHASE.optimiser.kind"] == "adam, adamw or sgd"
    assert values["PHASE.steps_per_epoch"] == "1 or more"
    assert values["prepare.verify_checksums"] == ""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_comments_of_conf_base_are_the_descriptions(file: Path) -> None:
    text = file.read_text()
    assert text == commented(text), f"run {WRITE}"


def test_the_table_of_the_documentation_is_that_of_the_descriptions() -> None:
    assert DOCUMENT.read_text() == document(), f"run {WRITE}"


def test_the_command_prints_a_group_of_parameters() -> None:
    shown = CliRunner().invoke(cli, ["parameters", "finetune.learning_rate.cosine"])
    assert shown.exit_code == 0
    assert "PHASE.learning_rate.cosine.warmup_fraction" in shown.output
    assert "0 to below 1" in shown.output
    assert "num_workers" not in shown.output
    assert len(CliRunner().invoke(cli, ["parameters"]).output.splitlines()) > 150


def test_an_unknown_group_is_refused_with_the_nearest_name() -> None:
    refused = CliRunner().invoke(cli, ["parameters", "scores"])
    assert refused.exit_code == 1
    assert "did you mean 'score'?" in refused.output
