"""Registries of the exchangeable parts: by name from the project, by dotted name from anywhere else."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from pydantic import Field, ValidationInfo, field_validator

from speaker_verification.common.errors import ParameterError
from speaker_verification.common.settings_base import Settings

Entry = TypeVar("Entry")
Part = TypeVar("Part", bound=type)


class Registry(Mapping[str, Entry]):
    """The entries of one kind by name, in the order of their registration.

    Args:
        subject: what an entry is, for messages ("corpus").
        base: class that every entry is an instance of.
        entries: entries by name; a name has no dot.

    Raises:
        TypeError: an entry is no instance of the base, or a name has a dot.
    """

    def __init__(self, subject: str, base: type, entries: Mapping[str, Entry]) -> None:
        self.subject = subject
        self.base = base
        self._entries = dict(entries)
        for name, entry in self._entries.items():
            fault = "its name has a dot" if "." in name else self._fault(entry)
            if fault:
                raise TypeError(f"{subject} '{name}' cannot be registered: {fault}")

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: str) -> Entry:
        """The registered entry of a name, or the one that a dotted name imports.

        Args:
            name: of a registered entry, or `my_package.my_module.MY_ENTRY`.

        Raises:
            ParameterError: the name is unknown (the known and the nearest are listed), or what a dotted name
                stands for cannot be imported or is no such entry.
        """
        if name in self._entries:
            return self._entries[name]
        module, _, attribute = name.rpartition(".")
        if not (module and all(part.isidentifier() for part in name.split("."))):
            raise ParameterError(self._unknown(name))
        found: Entry = self._import(name, module, attribute)
        fault = self._fault(found)
        if fault:
            raise ParameterError(f"{self.subject} '{name}': {fault}")
        return found

    def _unknown(self, name: str) -> str:
        nearest = difflib.get_close_matches(name, self._entries, n=1, cutoff=0.4)
        meant = f"did you mean '{nearest[0]}'? " if nearest else ""
        return (
            f"unknown {self.subject} '{name}': {meant}Known are {', '.join(self._entries)}, and any other by "
            "its dotted name (my_package.my_name)"
        )

    def _import(self, name: str, module: str, attribute: str) -> Any:
        where = f"{self.subject} '{name}'"
        try:
            source = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and f"{module}.".startswith(f"{error.name}."):
                raise ParameterError(
                    f"{where}: there is no module '{error.name}': install its package, or put the folder "
                    "that holds it on PYTHONPATH"
                ) from error
            raise ParameterError(
                f"{where}: module '{module}' needs '{error.name}', which is missing: install it"
            ) from error
        except Exception as error:  # a module of somebody else's runs anything
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ParameterError(
                f"{where}: importing '{module}' fails with {type(error).__name__}: {said}"
            ) from error
        if not hasattr(source, attribute):
            public = [own for own, value in vars(source).items() if self._fault(value) is None]
            has = f"it has {', '.join(public)}" if public else f"it has no {self.subject}"
            raise ParameterError(f"{where}: module '{module}' has no '{attribute}': {has}")
        return getattr(source, attribute)

    def _fault(self, entry: Any) -> str | None:
        """Reason why an object is no entry; None for an entry."""
        if isinstance(entry, self.base):
            return None
        return f"it is {_described(entry)}, not an instance of {_path(self.base)}"


class TypeRegistry(Registry[Part]):
    """A registry whose entries are classes.

    Args:
        subject: what a class is, for messages ("encoder adapter").
        base: class that every entry is a subclass of.
        entries: classes by name.

    Raises:
        TypeError: an entry is no subclass of the base.
    """

    def _fault(self, entry: Any) -> str | None:
        if not isinstance(entry, type) or not issubclass(entry, self.base) or entry is self.base:
            return f"it is {_described(entry)}, not a subclass of {_path(self.base)}"
        return None


class ClassRegistry(TypeRegistry[Part]):
    """A registry whose entries are classes, each with its settings class as the attribute `Settings`.

    Args:
        subject: what a class is, for messages ("speaker network").
        base: class that every entry is a subclass of.
        entries: classes by name.

    Raises:
        TypeError: an entry is no subclass of the base, or has no settings class.
    """

    def _fault(self, entry: Any) -> str | None:
        fault = super()._fault(entry)
        settings = getattr(entry, "Settings", None)
        if fault is None and not (isinstance(settings, type) and issubclass(settings, Settings)):
            return f"its attribute Settings is {_described(settings)}, not a subclass of {_path(Settings)}"
        return fault


class KindSettings(Settings):
    """The chosen kind of a registry, and a group of parameters for each registered kind.

    A subclass names the registry; its groups follow from it. Only the group of the chosen kind is in use, so
    that a recipe may change the kind without clearing away the parameters of another:

        class SpeakerNetworkSettings(KindSettings, registry=SPEAKER_NETWORKS, default="astp"): ...

    `kind` may be the dotted name of a class from elsewhere; its parameters are in the group `custom`.
    """

    registry: ClassVar[ClassRegistry[Any]]

    kind: str = ""
    """Kind, whose parameters the group of that name holds, or the dotted name of a class."""
    custom: dict[str, Any] = Field({}, validate_default=True)
    """Parameters of a class that is named by its dotted name."""

    def __init_subclass__(
        cls, registry: ClassRegistry[Any] | None = None, default: str = "", **options: Any
    ) -> None:
        super().__init_subclass__(**options)
        if registry is None:
            return
        cls.registry = registry
        told = f"Kind: {', '.join(registry)}, or the dotted name of a class."
        fields = {"kind": (str, Field(default, description=told))}
        fields |= {name: (entry.Settings, entry.Settings()) for name, entry in registry.items()}
        for name, (annotation, value) in fields.items():
            cls.__annotations__[name] = annotation
            setattr(cls, name, value)

    @field_validator("kind")
    @classmethod
    def _known(cls, kind: str) -> str:
        cls.registry.find(kind)
        return kind

    @field_validator("custom")
    @classmethod
    def _fits_class(cls, values: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        kind = info.data.get("kind")
        if kind is not None and kind not in cls.registry:
            cls.registry.find(kind).Settings.parse(values, "")
        return values

    @property
    def chosen_class(self) -> Any:
        """Class of the chosen kind."""
        return self.registry.find(self.kind)

    @property
    def chosen(self) -> Any:
        """Settings of the chosen kind, of the type `chosen_class.Settings`."""
        if self.kind in self.registry:
            return getattr(self, self.kind)
        return self.chosen_class.Settings.parse(self.custom, "custom")

    @property
    def group(self) -> str:
        """Name of the group that the parameters of the chosen kind are in."""
        return self.kind if self.kind in self.registry else "custom"

    @property
    def in_use(self) -> dict[str, Any]:
        """The chosen kind and its parameters as plain values, without those of other kinds."""
        return {"kind": self.kind, **self.chosen.model_dump(mode="json")}


def _described(entry: Any) -> str:
    return f"the class {_path(entry)}" if isinstance(entry, type) else f"a {type(entry).__name__}"


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
