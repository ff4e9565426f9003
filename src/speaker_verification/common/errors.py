"""User errors: mistakes that the person running the project can correct."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

NUM_LISTED = 5  # items that a message names


class UserError(Exception):
    """One line: the fault, its place (file, line, id, parameter) and the remedy."""


class ParameterError(UserError, ValueError):
    """A parameter is unknown, of the wrong type, out of range, or contradicts another one."""


@contextmanager
def in_group(name: str) -> Iterator[None]:
    """Context in which errors of a group's parameters carry their dotted names.

    Args:
        name: dotted name of the group, by which a message's "parameter 'x'" becomes "parameter 'name.x'".
    """
    try:
        yield
    except ParameterError as error:
        raise ParameterError(str(error).replace("parameter '", f"parameter '{name}.", 1)) from error


class DataError(UserError, ValueError):
    """A file, a table or a recording is missing or has invalid contents."""


def listed(items: Sequence[object], separator: str = ", ") -> str:
    """The first items, and how many more there are."""
    more = f" and {len(items) - NUM_LISTED} more" if len(items) > NUM_LISTED else ""
    return separator.join(map(str, items[:NUM_LISTED])) + more
