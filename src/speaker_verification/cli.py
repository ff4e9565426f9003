"""`kedro run`, with user errors printed as one line instead of a traceback."""

from __future__ import annotations

import copy
import difflib
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

from speaker_verification.common.distributed import (
    JoinError,
    is_first_process,
    is_started_by_torchrun,
    joined_processes,
)
from speaker_verification.common.errors import ParameterError, UserError
from speaker_verification.config.phases import COMPRESS, PHASE_DEFAULTS, PHASES
from speaker_verification.config.run_options import (
    check_options,
    checked_file,
    in_one_line,
    split_params,
    with_full_names,
)
from speaker_verification.pipelines.runner import STARTED, DistributedRunner

REMEDIES = {
    errno.EACCES: "change the permissions, or choose another path",
    errno.EPERM: "change the permissions, or choose another path",
    errno.EROFS: "choose a writable path: data_root in the environment's globals.yml",
    errno.ENOSPC: "free disk space, or set another data_root in the environment's globals.yml",
    errno.EDQUOT: "free disk space, or set another data_root in the environment's globals.yml",
    errno.ENOTDIR: "a file has the name of a folder that is needed: move it away",
    errno.EEXIST: "a file has the name of a folder that is needed: move it away",
    errno.EISDIR: "a folder has the name of a file that is needed: move it away",
}
CATALOG_ERRORS = (  # in Kedro's messages on catalog entries that are no datasets
    "parsing config for dataset",
    "must only contain arguments valid for",
    "Failed to instantiate dataset",
    "not a valid dataset configuration",
    "Incorrect dataset configuration",
)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # raised by writes, without a path


@click.group(name=__file__)
def cli() -> None:
    """Commands of this project."""


@cli.command(name="parameters")
@click.argument("name", default="")
def show_parameters(name: str) -> None:
    """Print all parameters, or those of the group NAME, with defaults, values and descriptions."""
    from speaker_verification.config.reference import PHASE, list_parameters

    group, *rest = name.split(".")
    wanted = ".".join([PHASE if group in (*PHASES, PHASE_DEFAULTS) else group, *rest])
    known = list(list_parameters())
    if group == COMPRESS and rest and wanted not in {one.name for one in known}:
        wanted = ".".join([PHASE, *rest])
    found = [one for one in known if not wanted or one.name == wanted or one.name.startswith(f"{wanted}.")]
    if not found:
        nearest = difflib.get_close_matches(wanted, [one.name for one in known], n=1, cutoff=0.0)[0]
        raise click.ClickException(f"no parameter '{name}': did you mean '{nearest}'?")
    for one in found:
        default = f" = {one.default}" if one.default else ""
        click.echo(f"{one.name}{default}\n    {one.comment}" if one.comment else f"{one.name}{default}")


def _with_one_line_errors(callback: Callable[..., Any]) -> Callable[..., Any]:
    def run(**options: Any) -> Any:
        if options["pipeline"] and not options["pipelines"]:  # Kedro's own name for one, without its warning
            options |= {"pipeline": None, "pipelines": [options["pipeline"]]}
        _filter_misleading_logs()
        try:
            options = with_full_names(options)
            if is_started_by_torchrun():
                return _run_distributed(callback, options)
            check_options(options)
            return callback(**options)
        except KedroCliError as error:
            raise click.ClickException(error.message) from None
        except Exception as error:
            message = user_message(error)
            if message is None:
                raise
            if not _tells(error):
                raise click.exceptions.Exit(1) from None
            raise click.ClickException(message) from error

    return run


def _tells(error: Exception) -> bool:
    """Whether this process prints an error: the first one does for all, or one of a host cut off from it."""
    return is_first_process() or (isinstance(error, JoinError) and os.environ.get("LOCAL_RANK", "0") == "0")


def _run_distributed(callback: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Run with the other processes of torchrun, which begin when the first one has passed all checks."""
    with joined_processes() as group:
        if options["runner"] is not None:
            raise ParameterError(
                f"--runner={options['runner']}: leave it out, torchrun needs a runner of its own"
            )
        options |= {"runner": f"{DistributedRunner.__module__}.{DistributedRunner.__qualname__}"}
        if group.is_first:
            check_options(options)
        else:
            group.await_event(STARTED)
        return callback(**options)


def _filter_misleading_logs() -> None:
    """Drop node errors, which are printed at the end, and misleading advice on resuming, from Kedro's log."""
    logging.getLogger("kedro.pipeline.node").addFilter(_is_no_error)
    for runner in ("sequential", "thread", "parallel"):
        logging.getLogger(f"kedro.runner.{runner}_runner").addFilter(_is_no_resume_advice)


def _is_no_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def _is_no_resume_advice(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("No nodes ran.")


def user_message(error: BaseException) -> str | None:
    """One-line message of an error that the user can mend; None for an error of the program.

    The causes are searched as well, because Kedro wraps errors of datasets. Errors of the operating system
    are the user's where they name a file or report a full disk.
    """
    for cause in _causes(error):
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, OSError) and (cause.filename is not None or cause.errno in DISK_FULL):
            return _system_message(cause)
        if isinstance(cause, DatasetError) and any(text in str(cause) for text in CATALOG_ERRORS):
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


def _system_message(error: OSError) -> str:
    reason = error.strerror or (os.strerror(error.errno) if error.errno else type(error).__name__)
    parts = [str(error.filename)] if error.filename is not None else []
    if error.filename2 is not None:
        parts[0] += f" -> {error.filename2}"
    parts.append(reason)
    line = ": ".join(parts).replace("\n", " ")
    remedy = REMEDIES.get(error.errno or 0)
    return f"{line}; {remedy}" if remedy else line


def _own_run() -> click.Command:
    """Kedro's run command with its options parsed and checked by `run_options`."""
    own = copy.copy(kedro_run)
    own.params = [copy.copy(option) for option in kedro_run.params]
    for option in own.params:
        callback = split_params if option.name == "params" else option.callback
        if callback is not None and option.name == "config":
            callback = checked_file(callback)
        if callback is not None:
            option.callback = in_one_line(option.opts[0], callback)
    if kedro_run.callback is not None:
        own.callback = _with_one_line_errors(kedro_run.callback)
    return own


run = _own_run()
cli.add_command(run)
