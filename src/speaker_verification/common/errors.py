"""User errors: mistakes that the person running the project can correct."""


class UserError(Exception):
    """One line: the fault, its place (file, line, id, parameter) and the remedy."""


class ParameterError(UserError, ValueError):
    """A parameter is unknown, of the wrong type, out of range, or contradicts another one."""


class DataError(UserError, ValueError):
    """A file, a table or a recording is missing or has invalid contents."""
