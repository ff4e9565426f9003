"""Units of an encoder that pruning keeps, and their form in a configuration."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from speaker_verification.common.errors import DataError

KEPT_UNITS = "kept_units"  # option of an encoder's configuration
Units = tuple[int, ...]
UnitKind = Literal["attention_heads", "feed_forward", "convolution"]
KINDS: tuple[UnitKind, ...] = get_args(UnitKind)


@dataclass(frozen=True)
class KeptUnits:
    """Ascending numbers of the units that are kept, by block; a module may lose all of them."""

    attention_heads: tuple[Units, ...]
    """Heads of every block."""
    feed_forward: tuple[tuple[Units, ...], ...]
    """Inner units of the feed-forward networks of every block, of which it has one or two."""
    convolution: tuple[Units, ...] = ()
    """Inner channels of the convolution module of every block; empty for encoders without."""

    @classmethod
    def from_modules(cls, modules: Iterable[tuple[int, UnitKind, Units]]) -> KeptUnits:
        """Kept units of (block, kind, units) of every module, in the order of the modules."""
        by_kind: dict[UnitKind, list[list[Units]]] = {kind: [] for kind in KINDS}
        for block, kind, units in modules:
            of_blocks = by_kind[kind]
            of_blocks.extend([] for _ in range(block + 1 - len(of_blocks)))
            of_blocks[block].append(tuple(units))
        return cls(
            tuple(units for (units,) in by_kind["attention_heads"]),
            tuple(map(tuple, by_kind["feed_forward"])),
            tuple(units for (units,) in by_kind["convolution"]),
        )

    @classmethod
    def from_config(cls, values: Any) -> KeptUnits:
        """Kept units from what `to_config` made of them.

        Raises:
            DataError: the values have another form.
        """
        try:
            if not isinstance(values, Mapping):
                raise TypeError
            return cls(
                tuple(map(_units, values["attention_heads"])),
                tuple(tuple(map(_units, networks)) for networks in values["feed_forward"]),
                tuple(map(_units, values["convolution"])),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{KEPT_UNITS} must give attention_heads, feed_forward and convolution of every block, as "
                "runs of ascending numbers such as '0-5,7'"
            ) from error

    def to_config(self) -> dict[str, Any]:
        """Plain values: the numbers of a module as text, such as '0-5,7'."""
        return {
            "attention_heads": list(map(_runs, self.attention_heads)),
            "feed_forward": [list(map(_runs, networks)) for networks in self.feed_forward],
            "convolution": list(map(_runs, self.convolution)),
        }

    def modules(self) -> list[tuple[int, UnitKind, Units]]:
        """Block, kind and units of every module, by block: its heads, networks, then convolution."""
        modules: list[tuple[int, UnitKind, Units]] = [
            *((block, "attention_heads", heads) for block, heads in enumerate(self.attention_heads)),
            *(
                (block, "feed_forward", units)
                for block, networks in enumerate(self.feed_forward)
                for units in networks
            ),
            *((block, "convolution", channels) for block, channels in enumerate(self.convolution)),
        ]
        return sorted(modules, key=lambda module: module[0])


def _runs(units: Units) -> str:
    """Numbers as runs: (0, 1, 2, 5) as '0-2,5'."""
    runs = []
    for _, run in itertools.groupby(enumerate(units), lambda pair: pair[1] - pair[0]):
        numbers = [unit for _, unit in run]
        runs.append(str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}")
    return ",".join(runs)


def _units(runs: str) -> Units:
    """Numbers of runs.

    Raises:
        ValueError: they are no runs, or not ascending.
    """
    units: list[int] = []
    for run in runs.split(",") if runs else ():
        first, _, last = run.partition("-")
        units.extend(range(int(first), int(last or first) + 1))
    if runs != _runs(tuple(units)) or any(a >= b for a, b in itertools.pairwise(units)):
        raise ValueError
    return tuple(units)
