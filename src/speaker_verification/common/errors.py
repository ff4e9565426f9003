"""Errors that the person who runs the project can mend."""


class UserError(Exception):
    """Says in one line what is wrong, where (file, line, id, parameter) and what to do about it."""


class ParameterError(UserError, ValueError):
    """A parameter is unknown, of the wrong type, out of range, or impossible beside the others."""


class DataError(UserError, ValueError):
    """A file, a table or a recording is missing or does not hold what it must."""
