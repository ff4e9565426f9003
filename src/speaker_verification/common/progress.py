"""Progress bars on the console."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from speaker_verification.common.distributed import processes


@contextmanager
def progress_bar(
    description: str, total: int, completed: int = 0, value: str | None = None
) -> Iterator[Callable[..., None]]:
    """Progress bar of a known number of steps, removed from the console at the end of the block.

    Of several processes the first shows it.

    Args:
        description: text before the bar.
        total: number of steps.
        completed: number of steps done before.
        value: name of a number shown behind the bar; None for none.

    Yields:
        A function to call after every step, with the number by its name if there is one.
    """
    if not processes().is_first:
        yield lambda **_: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    if value is not None:
        columns.append(TextColumn(f"{value} {{task.fields[{value}]:.3f}}"))
    with Progress(*columns, transient=True) as progress:
        fields: dict[str, Any] = {} if value is None else {value: float("nan")}
        task = progress.add_task(description, total=total, completed=completed, **fields)
        yield lambda **shown: progress.update(task, advance=1, **shown)
