"""`kedro run` as Kedro has it, with mistakes that a person can mend told in one line."""

from __future__ import annotations

import copy
import errno
import logging
import os
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

import click
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.cli.utils import KedroCliError
from kedro.io import DatasetError

from speaker_verification.common.errors import UserError
from speaker_verification.config.run_options import check_options, checked_file, in_one_line, split_params

REMEDIES = {
    errno.EACCES: "allow it, or take another place",
    errno.EPERM: "allow it, or take another place",
    errno.EROFS: "take a place that can be written: data_root in the environment's globals.yml",
    errno.ENOSPC: "make room, or take another data_root in the environment's globals.yml",
    errno.EDQUOT: "make room, or take another data_root in the environment's globals.yml",
    errno.ENOTDIR: "a file lies where a folder is needed: move it away",
    errno.EEXIST: "a file lies where a folder is needed: move it away",
    errno.EISDIR: "a folder lies where a file is needed: move it away",
}
OF_CATALOG = (  # what Kedro says of an entry that it cannot make a dataset of
    "parsing config for dataset",
    "must only contain arguments valid for",
    "Failed to instantiate dataset",
    "not a valid dataset configuration",
    "Incorrect dataset configuration",
)
NO_ROOM = (errno.ENOSPC, errno.EDQUOT)  # told by writes, which know no path


@click.group(name=__file__)
def cli() -> None:
    """Commands of this project."""


def _explaining(callback: Callable[..., Any]) -> Callable[..., Any]:
    def run(**options: Any) -> Any:
        if options["pipeline"] and not options["pipelines"]:  # Kedro's own name for one, without its warning
            options |= {"pipeline": None, "pipelines": [options["pipeline"]]}
        _silence_what_contradicts()
        try:
            check_options(options)
            return callback(**options)
        except KedroCliError as error:
            raise click.ClickException(error.message) from None
        except Exception as error:
            mistake = explanation(error)
            if mistake is None:
                raise
            raise click.ClickException(mistake) from error

    return run


def _silence_what_contradicts() -> None:
    """Log filter for node errors, printed at the end, and for misleading advice to repeat a command."""
    logging.getLogger("kedro.pipeline.node").addFilter(_is_no_error)
    for runner in ("sequential", "thread", "parallel"):
        logging.getLogger(f"kedro.runner.{runner}_runner").addFilter(_is_no_advice_to_repeat)


def _is_no_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def _is_no_advice_to_repeat(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("No nodes ran.")


def explanation(error: BaseException) -> str | None:
    """One line for a mistake that a person can mend, None for an error of the program.

    Kedro wraps what datasets raise, so that causes count. Of the system's errors those count that name a file
    or tell that there is no room.
    """
    for cause in _causes(error):
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, OSError) and (cause.filename is not None or cause.errno in NO_ROOM):
            return _of_system(cause)
        if isinstance(cause, DatasetError) and any(text in str(cause) for text in OF_CATALOG):
            return f"catalog: {' '.join(str(cause).split())}"
        if isinstance(cause, sqlite3.OperationalError):
            return (
                f"tracking database: {cause}; see tracking_uri in tracking.yml, or set enabled: false there"
            )
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _of_system(error: OSError) -> str:
    reason = error.strerror or (os.strerror(error.errno) if error.errno else type(error).__name__)
    told = [str(error.filename)] if error.filename is not None else []
    if error.filename2 is not None:
        told[0] += f" -> {error.filename2}"
    told.append(reason)
    line = ": ".join(told).replace("\n", " ")
    remedy = REMEDIES.get(error.errno or 0)
    return f"{line}; {remedy}" if remedy else line


def _own_run() -> click.Command:
    """Kedro's command with the options read by `run_options`."""
    own = copy.copy(kedro_run)
    own.params = [copy.copy(option) for option in kedro_run.params]
    for option in own.params:
        callback = split_params if option.name == "params" else option.callback
        if callback is not None and option.name == "config":
            callback = checked_file(callback)
        if callback is not None:
            option.callback = in_one_line(option.opts[0], callback)
    if kedro_run.callback is not None:
        own.callback = _explaining(kedro_run.callback)
    return own


run = _own_run()
cli.add_command(run)
