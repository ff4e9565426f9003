"""Checks of single YAML configuration files; errors name the file and the line."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from speaker_verification.common.errors import DataError


def check_yaml(name: str, content: bytes, secret: bool = False) -> None:
    """Refuse a file that Kedro and OmegaConf could only answer with a traceback.

    Args:
        name: name of the file, for messages.
        content: bytes of the file.
        secret: whether messages must not repeat the content.

    Raises:
        DataError: the file is not UTF-8, not YAML, no mapping, or repeats a key.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{name}, line {line}: not UTF-8: save the file with this encoding") from None
    try:
        root = _compose(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise DataError(f"{name}, line {line}: {_problem(text, line, str(error.problem), secret)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise DataError(f"{name}, line {line}: a character that YAML does not allow: remove it") from None
    if root is None:
        return
    if not isinstance(root, yaml.MappingNode):
        raise DataError(f"{name}, line {root.start_mark.line + 1}: no mapping: give lines 'name: value'")
    for key, first in _repeated(root):
        repeated = "key" if secret else f"key '{key.value}'"
        raise DataError(
            f"{name}, line {key.start_mark.line + 1}: duplicate {repeated}, first set in line {first}"
        )


def _compose(text: str) -> yaml.Node | None:
    """Node tree of a file, parsed by the C library, ten times as fast, unless that finds an error."""
    try:
        return yaml.compose(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return yaml.compose(text, Loader=yaml.SafeLoader)


def _problem(text: str, line: int, problem: str, secret: bool) -> str:
    lines = text.split("\n")
    beginning = lines[line - 1] if line <= len(lines) else ""
    if "\t" in beginning[: len(beginning) - len(beginning.lstrip())] or "'\\t'" in problem:
        return "indented with a tab: use spaces"
    return "not YAML" if secret else f"not YAML: {problem}"


def _repeated(node: yaml.Node) -> Iterator[tuple[yaml.ScalarNode, int]]:
    """Repeated keys of the mappings, each with the line of its first occurrence."""
    pending, done = [node], set()
    while pending:
        current = pending.pop()
        if id(current) in done:  # an alias
            continue
        done.add(id(current))
        if isinstance(current, yaml.SequenceNode):
            pending += current.value
        elif isinstance(current, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in current.value:
                if isinstance(key, yaml.ScalarNode) and key.value in lines:
                    yield key, lines[key.value]
                lines.setdefault(str(key.value), key.start_mark.line + 1)
                pending.append(value)
