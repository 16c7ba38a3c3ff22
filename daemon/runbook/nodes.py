"""Nodes of a YAML file (floor 3): scalars stay the text the user wrote, with their offsets in the file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, eq=False)
class ScalarNode:
    """One scalar: `text` is its value, `style` one of "" (plain) ' \" | >, `start` and `end` its offsets in the file's text."""

    text: str
    style: str
    start: int
    end: int

    @property
    def empty(self) -> bool:
        """True for no value at all: nothing, `~` or `null`."""
        return self.style == "" and self.text in ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, slots=True, eq=False)
class ListNode:
    """A sequence."""

    items: tuple[YamlNode, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True, eq=False)
class MapNode:
    """A mapping in file order; of duplicate keys the first is kept."""

    entries: tuple[tuple[ScalarNode, YamlNode], ...]
    start: int
    end: int

    def get(self, key: str) -> YamlNode | None:
        """The value of `key`, None when absent."""
        return next((value for name, value in self.entries if name.text == key), None)


YamlNode = ScalarNode | ListNode | MapNode
