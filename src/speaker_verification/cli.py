"""`kedro run` as Kedro has it, with mistakes that a person can mend told in one line."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run

from speaker_verification.errors import UserError


@click.group(name=__file__)
def cli() -> None:
    """Commands of this project."""


def _explaining(callback: Callable[..., Any]) -> Callable[..., Any]:
    def run(**options: Any) -> Any:
        if options["pipeline"] and not options["pipelines"]:  # Kedro's own name for one, without its warning
            options |= {"pipeline": None, "pipelines": [options["pipeline"]]}
        # A node's error is told once: below, or with its traceback.
        logging.getLogger("kedro.pipeline.node").addFilter(lambda record: record.levelno < logging.ERROR)
        try:
            return callback(**options)
        except Exception as error:
            mistake = _mistake_in(error)
            if mistake is None:
                raise
            raise click.ClickException(str(mistake)) from error

    return run


def _mistake_in(error: BaseException | None) -> UserError | None:
    """The mistake that an error is or was raised from: Kedro wraps what datasets raise."""
    while error is not None:
        if isinstance(error, UserError):
            return error
        error = error.__cause__
    return None


run = copy.copy(kedro_run)
if kedro_run.callback is not None:
    run.callback = _explaining(kedro_run.callback)
cli.add_command(run)
