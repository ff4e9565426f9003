"""Parsing and checks of the options of `kedro run`, with the nearest known name for an unknown one."""

from __future__ import annotations

import difflib
import inspect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import yaml
from kedro.framework.project import pipelines
from kedro.pipeline import Pipeline
from kedro.utils import load_obj
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from speaker_verification.common.errors import DataError, ParameterError, UserError
from speaker_verification.config.files import check_yaml

SHOWN_NAMES = 15
RUNNERS = ("SequentialRunner", "ThreadRunner", "ParallelRunner")

Names = Callable[[Pipeline], Collection[str]]


def _namespaces(pipeline: Pipeline) -> set[str]:
    parts = [node.namespace.split(".") for node in pipeline.nodes if node.namespace]
    return {".".join(names[: depth + 1]) for names in parts for depth in range(len(names))}


def _node_names(pipeline: Pipeline) -> set[str]:
    return {node.name for node in pipeline.nodes}


SELECTIONS: dict[
    str, tuple[str, str, Names]
] = {  # argument of Kedro's run: option, kind of name, names known to a pipeline
    "node_names": ("--nodes", "node", _node_names),
    "from_nodes": ("--from-nodes", "node", _node_names),
    "to_nodes": ("--to-nodes", "node", _node_names),
    "from_inputs": ("--from-inputs", "dataset", Pipeline.datasets),
    "to_outputs": ("--to-outputs", "dataset", Pipeline.datasets),
    "tags": ("--tags", "tag", lambda pipeline: {tag for node in pipeline.nodes for tag in node.tags}),
    "namespaces": ("--namespaces", "namespace", _namespaces),
}
NESTED = ("node_names", "from_nodes", "to_nodes", "namespaces")  # selections by names that have parents


def split_params(context: click.Context, parameter: click.Parameter, value: Any) -> dict[str, Any]:
    """Values of `--params` by name; unlike in Kedro, commas inside brackets separate nothing.

    Raises:
        ClickException: an item is not NAME=VALUE.
    """
    if isinstance(value, Mapping):
        return dict(value)
    items = [item.strip() for item in _split_outside_brackets(value) if item.strip()]
    for item in items:
        name, equals, _ = item.partition("=")
        if not equals or not name.strip():
            raise click.ClickException(f"--params: '{item}' must be NAME=VALUE; separate several by commas")
    return _merged([_read_item(item) for item in items])


def _read_item(item: str) -> DictConfig:
    name, _, value = item.partition("=")
    try:
        read = OmegaConf.from_dotlist([f"{name.strip()}={value}"])
    except (yaml.YAMLError, OmegaConfBaseException):
        raise click.ClickException(
            f"--params: '{item}' cannot be read: close its brackets and quotes"
        ) from None
    if key := _key_with_colon(OmegaConf.to_container(read)):
        raise click.ClickException(
            f"--params: '{key}' in '{item}' has no value: write a space after the colon"
        )
    return read


def _key_with_colon(value: Any) -> str | None:
    """First key that holds a colon and has no value, as YAML reads `{a:1}`."""
    for key, inner in value.items() if isinstance(value, Mapping) else ():
        if inner is None and ":" in str(key):
            return str(key)
        if found := _key_with_colon(inner):
            return found
    return None


def _merged(items: Sequence[DictConfig]) -> dict[str, Any]:
    values: Any = OmegaConf.to_container(OmegaConf.merge({}, *items))
    return values


def _split_outside_brackets(text: str) -> list[str]:
    parts, depth = [""], 0
    for char in text:
        depth += (char in "[{") - (char in "]}")
        if char == "," and depth <= 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts


def in_one_line(option: str, callback: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the parser of an option so that its errors are one line."""

    def read(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        try:
            return callback(context, parameter, value)
        except click.UsageError:
            raise
        except click.ClickException as error:
            message = error.message if error.message.startswith("--") else f"{option}: {error.message}"
            raise click.ClickException(message) from None
        except UserError as error:
            raise click.ClickException(f"{option}: {error}") from None
        except OmegaConfBaseException as error:
            raise click.ClickException(f"{option}: {str(error).splitlines()[0]}") from None

    return read


def checked_file(callback: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the parser of an options file so that an error in the file is reported with its line."""

    def read(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value:
            content = Path(value).read_bytes()
            check_yaml(value, content)
            section = (yaml.safe_load(content) or {}).get(context.info_name)
            if not isinstance(section, dict):
                raise DataError(f"{value}: must hold options of this command below '{context.info_name}:'")
        return callback(context, parameter, value)

    return read


def with_full_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options in which nodes and namespaces have their parents: `lmft` becomes `training.lmft`.

    Args:
        options: arguments of Kedro's `run`, in which a unique end of a name may stand for the name.
    """
    given = [selection for selection in NESTED if options[selection]]
    if not given:
        return dict(options)
    registry = _registry()
    run = _sum(registry[name] for name in _chosen(options) if name in registry)
    names = {selection: _names(selection, run) for selection in given}
    full = {
        selection: tuple(known.get(name, name) for name in options[selection])
        for selection, known in names.items()
    }
    return {**options, **full}


def _names(selection: str, *parts: Pipeline) -> dict[str, str]:
    """Names in pipelines that a selection may give, with the full name of each."""
    full = {name for pipeline in parts for name in SELECTIONS[selection][2](pipeline)}
    if selection not in NESTED:
        return {name: name for name in full}
    ends = Counter(end for name in full for end in _ends(name))
    return {end: name for name in full for end in _ends(name) if end == name or ends[end] == 1}


def _ends(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]


def _registry() -> dict[str, Pipeline]:
    pipelines.set_requested(None)
    return dict(pipelines.items())


def _chosen(options: Mapping[str, Any]) -> Sequence[str]:
    return options["pipelines"] or ["__default__"]


def _sum(parts: Iterable[Pipeline]) -> Pipeline:
    return sum(parts, start=Pipeline([]))


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse unknown pipelines, nodes, datasets, tags, namespaces and runners.

    Args:
        options: arguments of Kedro's `run`.

    Raises:
        ParameterError: naming the option, with the nearest known name.
    """
    _check_runner(options["runner"], options["runner_params"])
    selections = [name for name in SELECTIONS if options[name]]
    if not (options["pipelines"] or selections or options["load_versions"]):
        return
    registry, chosen = _registry(), _chosen(options)
    for name in chosen:
        if name not in registry:
            raise ParameterError(_unknown("--pipelines", "pipeline", name, registry))
    run = _sum(registry[name] for name in chosen)
    for selection in selections:
        _check_selection(selection, options[selection], run, registry)
    _check_any_left(run, {name: options[name] for name in selections})
    datasets = {
        name for pipeline in registry.values() for name in pipeline.datasets() if "params:" not in name
    }
    for name in options["load_versions"] or ():
        if name not in datasets:
            raise ParameterError(_unknown("--load-versions", "dataset", name, datasets))


def _check_selection(
    selection: str, given: Collection[str], run: Pipeline, registry: Mapping[str, Pipeline]
) -> None:
    option, kind, names_of = SELECTIONS[selection]
    known, anywhere = _names(selection, run), _names(selection, *registry.values())
    for name in given:
        if name in known:
            continue
        full = anywhere.get(name)
        holders = [key for key, other in registry.items() if key[0] != "_" and full in names_of(other)]
        if holders:
            raise ParameterError(
                f"{option}: the {kind} '{name}' is not in the chosen pipeline but in {', '.join(holders)}: "
                f"choose by --pipeline={holders[0]}"
            )
        raise ParameterError(_unknown(option, kind, name, known, {*known.values()}))


def _check_any_left(run: Pipeline, given: Mapping[str, Any]) -> None:
    arguments = {**given, "node_namespaces": given.get("namespaces")}
    arguments.pop("namespaces", None)
    try:
        run.filter(**arguments)
    except ValueError:
        asked = " and ".join(f"{SELECTIONS[name][0]}={','.join(values)}" for name, values in given.items())
        raise ParameterError(f"no node matches {asked}: drop one of these options") from None


def _check_runner(name: str | None, parameters: Mapping[str, Any]) -> None:
    try:
        runner = load_obj(name or RUNNERS[0], "kedro.runner")
    except (ImportError, AttributeError, ValueError):
        raise ParameterError(_unknown("--runner", "runner", str(name), RUNNERS)) from None
    try:
        inspect.signature(runner).bind(**parameters)
    except TypeError as error:
        raise ParameterError(f"--runner-params: {runner.__name__}: {error}") from None


def _unknown(
    option: str, kind: str, name: str, known: Collection[str], listed: Collection[str] | None = None
) -> str:
    nearest = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.4)
    if nearest:
        return f"{option}: no {kind} '{name}': did you mean '{nearest[0]}'?"
    shown = sorted(other for other in listed or known if other[0] != "_" and "params:" not in other)
    more = ", ..." if len(shown) > SHOWN_NAMES else ""
    return f"{option}: no {kind} '{name}': known are {', '.join(shown[:SHOWN_NAMES])}{more}"
