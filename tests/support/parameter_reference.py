"""Comments of conf/base and the table of docs/parameters.md, rendered from the settings classes.

`python -m tests.support.parameter_reference` writes both after a settings class has changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from speaker_verification.config.phases import COMPRESS, PHASE_DEFAULTS, PHASES
from speaker_verification.config.reference import PHASE, Parameter, list_parameters, show
from tests.support.config import CONF

FILES = sorted(CONF.glob("base/parameters*.yml"))
DOCUMENT = CONF.parent / "docs" / "parameters.md"
TABLE = "| parameter | published value | values | meaning |\n| --- | --- | --- | --- |\n"
LAST_COLUMN = 34  # of code that comments are lined up behind
KNOWN = {parameter.name: parameter for parameter in list_parameters()}


def described(path: tuple[str, ...]) -> Parameter | None:
    """The parameter that a line of conf/base explains, None for one that another line explains."""
    group, *rest = path
    if group == COMPRESS and rest:
        return KNOWN.get(".".join(path))
    if group in PHASES and rest:
        found = KNOWN.get(".".join([PHASE, *rest]))
        return found if group == PHASES[0] and found and _is_required(found) else None
    return KNOWN.get(".".join([PHASE if group == PHASE_DEFAULTS else group, *rest]))


def _is_required(parameter: Parameter) -> bool:
    return not parameter.default and not parameter.is_group


def _entries(node: yaml.Node, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], int, int]]:
    """Paths of the keys of block mappings, each with its line and the column behind its value."""
    if not isinstance(node, yaml.MappingNode) or node.flow_style:
        return
    for key, value in node.value:
        line = key.start_mark.line
        is_block = isinstance(value, yaml.CollectionNode) and not value.flow_style
        end = key.end_mark.column + 1 if is_block else value.end_mark.column
        yield (*path, key.value), line, end
        yield from _entries(value, (*path, key.value))


def commented(text: str) -> str:
    """A file of parameters with the comments that the settings classes ask for behind its values."""
    lines = text.split("\n")
    entries = list(_entries(yaml.compose(text, Loader=yaml.SafeLoader)))
    ends: dict[tuple[str, ...], int] = {}
    for path, _, end in entries:
        if end <= LAST_COLUMN:
            ends[path[:-1]] = max(ends.get(path[:-1], 0), end)
    for path, line, end in entries:
        parameter = described(path)
        code = lines[line][:end]
        comment = parameter.comment if parameter else ""
        lines[line] = f"{code.ljust(ends.get(path[:-1], 0))} # {comment}" if comment else code
    return "\n".join(lines)


def _published(parameter: Parameter, values: dict[str, Any]) -> str:
    """Value in conf/base; of a parameter of the phases all three where they differ."""
    group, _, rest = parameter.name.partition(".")
    if group != PHASE:
        return show(_at(values, parameter.name, parameter.default))
    common = _at(values[PHASE_DEFAULTS], rest, parameter.default)
    of_phases = [show(_at(values[phase], rest, common)) for phase in PHASES]
    return of_phases[0] if len({*of_phases}) == 1 else ", ".join(of_phases)


def _at(values: Any, name: str, otherwise: Any) -> Any:
    for part in name.split("."):
        if not isinstance(values, dict) or part not in values:
            return otherwise
        values = values[part]
    return values


def table() -> str:
    """The table of all parameters."""
    values = {name: value for file in FILES for name, value in yaml.safe_load(file.read_text()).items()}
    rows = []
    for parameter in KNOWN.values():
        if parameter.is_group and not parameter.default:
            continue
        cells = (parameter.values, parameter.description.rstrip("."))
        told = " | ".join(cell.replace("|", "\\|") for cell in cells)
        rows.append(f"| `{parameter.name}` | {_published(parameter, values)} | {told} |")
    return TABLE + "\n".join(rows) + "\n"


def document() -> str:
    """docs/parameters.md with the table of all parameters at its end."""
    text = DOCUMENT.read_text()
    return text[: text.index("| parameter |")] + table()


def main() -> None:
    """Write comments and table."""
    for file in FILES:
        file.write_text(commented(file.read_text()))
    Path(DOCUMENT).write_text(document())


if __name__ == "__main__":
    main()
