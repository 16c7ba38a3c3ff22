"""The mapping file of `reefd import` (floor 5): which column of a source is which signal of which entity, in which unit.

`read_mapping(path)` gives a checked `Mapping`; every mistake of the file is reported at once, with line, column and what to write.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping as MappingOf
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from daemon.errors import Diagnostic, RunbookError, UserError
from daemon.journal.conversion import Conversion, conversion
from daemon.journal.recording import KEYS
from daemon.language.catalogue import CATALOGUE, Signal
from daemon.runbook.document import compose
from daemon.runbook.fields import Findings, Section, describe, hint
from daemon.runbook.nodes import MapNode, ScalarNode, YamlNode
from daemon.world.entities import Kind

TimeFormat = Literal["iso8601", "epoch_s", "epoch_ms", "epoch_us", "epoch_ns"]

KINDS: MappingOf[str, Kind] = {
    "market": Kind.MARKET,
    "account": Kind.ACCOUNT,
    "position": Kind.POSITION,
    "chain": Kind.CHAIN,
    "route": Kind.ROUTE,
    "parameter": Kind.VENUE,
}
"""What `kind` may say; parameters are signals of a venue."""

FORMATS: tuple[TimeFormat, ...] = ("iso8601", "epoch_s", "epoch_ms", "epoch_us", "epoch_ns")
DEFAULT = "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeColumn:
    """Where a row's time stands; `format` None: the column is a Parquet timestamp. A bar is known `known_after_ns` later."""

    column: str
    format: TimeFormat | None = None
    known_after_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityKey:
    """One key of the entity: a constant, or a column renamed by its raw value, then given prefix and suffix."""

    name: str
    column: str | None = None
    const: str | None = None
    prefix: str = ""
    suffix: str = ""
    rename: MappingOf[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A setting that may differ by an entity key: `by` None means `default` for all; no default means unlisted values have none."""

    by: str | None = None
    values: MappingOf[str, int] = field(default_factory=dict)
    default: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """How a column becomes the catalogue's unit, by the final value of the key `by` or (None) for all rows."""

    by: str | None = None
    values: MappingOf[str, Conversion] = field(default_factory=dict)
    default: Conversion | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalColumn:
    """One signal: its column, unit, and the cadence and funding interval that the mapping declares."""

    signal: Signal
    column: str
    units: Units
    holds_for: Choice = Choice()
    interval: Choice = Choice()


@dataclass(frozen=True, slots=True, kw_only=True)
class Mapping:
    """One source shape turned into one kind of recording."""

    path: str
    kind: Kind
    time: TimeColumn
    event_time: TimeColumn | None
    keys: tuple[EntityKey, ...]
    where: MappingOf[str, tuple[str, ...]]
    signals: tuple[SignalColumn, ...]
    warnings: tuple[Diagnostic, ...] = ()
    places: MappingOf[str, Diagnostic] = field(default_factory=dict)  # where each source column is named, to point at it

    @property
    def columns(self) -> tuple[str, ...]:
        """Every source column that is read, in the order of the mapping."""
        named = [self.time.column, *(k.column for k in self.keys), *(s.column for s in self.signals)]
        if self.event_time:
            named.append(self.event_time.column)
        return tuple(dict.fromkeys(name for name in named if name is not None))


def read_mapping(path: Path) -> Mapping:
    """The mapping in a file; raises UserError when it cannot be read, RunbookError with every mistake in it."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: the mapping cannot be read: {error.strerror or error}") from error
    return parse_mapping(content, str(path))


def parse_mapping(content: str | bytes, path: str) -> Mapping:
    """The mapping in a text; raises RunbookError with every mistake in it."""
    document = compose(content, path)
    if document.problems:
        raise RunbookError([_reworded(problem) for problem in document.problems])
    findings = Findings(document=document)
    mapping: Mapping | None = None
    if isinstance(document.root, MapNode):
        mapping = _Reader(findings, document.root).mapping(path)
    else:
        message = "a mapping file is a mapping of keys; write kind, time, entity and signals"
        findings.errors.append(document.diagnostic("E004", message, 0, 1))
    if findings.errors or mapping is None:
        raise RunbookError(sorted(findings.errors, key=lambda d: (d.line, d.column)))
    return mapping


def _reworded(problem: Diagnostic) -> Diagnostic:
    """The same complaint for a mapping's file: an empty one does not start with a runbook's schema."""
    if problem.code != "E008":
        return problem
    return replace(problem, message=f"{problem.message.partition(';')[0]}; a mapping starts with `kind: market`")


class _Reader:
    """Reads one mapping file; mistakes go to `findings`."""

    def __init__(self, findings: Findings, root: MapNode) -> None:
        self.findings = findings
        self.top = Section(findings, root, "", "the mapping")
        self.places: dict[str, Diagnostic] = {}

    def mapping(self, path: str) -> Mapping | None:
        kind = self._kind()
        time = self._time("time", self.top.required("time", "{column: timestamp, format: iso8601}"))
        event = self.top.get("event_time")
        event_time = None if event is None else self._time("event_time", event)
        keys = self._keys(kind, self.top.required("entity", "{venue: {const: dydx}, market: {column: market}}"))
        where = self._where(kind, self.top.get("where"))
        signals = self._signals(kind, self.top.required("signals", "{last_price: {column: close, unit: price}}"))
        self.top.close()
        if kind is None or time is None or self.findings.errors:
            return None
        return Mapping(
            path=path,
            kind=kind,
            time=time,
            event_time=event_time,
            keys=keys,
            where=where,
            signals=signals,
            warnings=tuple(self.findings.warnings),
            places=self.places,
        )

    def _kind(self) -> Kind | None:
        """The kind; where it is wrong or missing the one that was probably meant, so that the rest is checked all the same."""
        node = self.top.required("kind", "market")
        read = None if node is None else self.findings.choice(node, "kind", tuple(KINDS))
        if read is not None:
            return KINDS[read]
        near = difflib.get_close_matches(node.text, KINDS, 1) if isinstance(node, ScalarNode) else []
        if near:
            return KINDS[near[0]]
        entity = self.top.get("entity")
        written = {key.text for key, _ in entity.entries} if isinstance(entity, MapNode) else set()
        return next((kind for kind, keys in KEYS.items() if set(keys) == written), None)

    def _section(self, node: YamlNode | None, where: str, example: str) -> Section | None:
        if node is None:
            return None
        if not isinstance(node, MapNode):
            self.findings.error("E004", f"{where} is a mapping, found {describe(node)}; write {example}", node, where)
            return None
        return Section(self.findings, node, where)

    def _column(self, section: Section, required: bool = True) -> str | None:
        node = section.required("column", "{column: timestamp}") if required else section.get("column")
        if node is None:
            return None
        name = self.findings.text(node, section.path("column"))
        if name and isinstance(node, ScalarNode):
            self.places.setdefault(name, self.findings.document.diagnostic("E060", "", node.start, node.end, section.path("column")))
        return name

    def _time(self, where: str, node: YamlNode | None) -> TimeColumn | None:
        section = self._section(node, where, "{column: timestamp, format: iso8601}")
        if section is None:
            return None
        column = self._column(section)
        format_node = section.get("format")
        read: TimeFormat | None = None
        if format_node is not None:
            read = self.findings.choice(format_node, section.path("format"), FORMATS)
        known_after = section.duration("known_after", 0)
        section.close()
        return None if column is None else TimeColumn(column=column, format=read, known_after_ns=known_after)

    def _keys(self, kind: Kind | None, node: YamlNode | None) -> tuple[EntityKey, ...]:
        section = self._section(node, "entity", "{venue: {const: dydx}, market: {column: market}}")
        if section is None or kind is None:
            return ()
        keys: list[EntityKey] = []
        for name in KEYS[kind]:
            found = section.get(name)
            # An account is named after its venue unless there are several: `venue` may stand for `account`.
            if found is None and name == "account":
                found = section.get("venue")
            if found is None:
                self.findings.error("E008", f"the key '{name}' is missing in entity; write {name}: {{column: ...}}", section.node, "entity")
                continue
            key = self._key(name, found)
            if key is not None:
                keys.append(key)
        section.close()
        return tuple(keys)

    def _key(self, name: str, node: YamlNode) -> EntityKey | None:
        where = f"entity.{name}"
        section = self._section(node, where, "{column: ...} or {const: ...}")
        if section is None:
            return None
        const, column = section.text("const"), self._column(section, required=False)
        prefix, suffix = section.text("prefix") or "", section.text("suffix") or ""
        rename: dict[str, str] = {}
        renames = self._section(section.get("rename"), f"{where}.rename", "{BTCUSDT: BTC-USD}")
        if renames is not None:
            for old, _ in renames.node.entries:
                new = renames.text(old.text)
                if new is not None:
                    rename[old.text] = new
        section.close()
        if (const is None) == (column is None):
            self.findings.error("E062", f"{where} is either {{const: ...}} or {{column: ...}}; write one of them", node, where)
            return None
        if const is not None and (prefix or suffix or rename):
            self.findings.error("E062", f"{where} is a constant: write the final name, without prefix, suffix or rename", node, where)
            return None
        return EntityKey(name=name, column=column, const=const, prefix=prefix, suffix=suffix, rename=rename)

    def _where(self, kind: Kind | None, node: YamlNode | None) -> dict[str, tuple[str, ...]]:
        section = self._section(node, "where", "{venue: [dydx, binance]}")
        if section is None or kind is None:
            return {}
        kept: dict[str, tuple[str, ...]] = {}
        for name in KEYS[kind]:
            found = section.get(name)
            if isinstance(found, ScalarNode):
                kept[name] = (found.text,)
            elif found is not None:
                kept[name] = self.findings.texts(found, f"where.{name}", "[dydx, binance]")
        section.close()
        return kept

    def _signals(self, kind: Kind | None, node: YamlNode | None) -> tuple[SignalColumn, ...]:
        section = self._section(node, "signals", "{last_price: {column: close, unit: price}}")
        if section is None or kind is None:
            return ()
        if not section.node.entries:
            self.findings.error("E008", "no signal is mapped; write {last_price: {column: close, unit: price}}", section.node, "signals")
        found: list[SignalColumn] = []
        for key, value in section.node.entries:
            section.get(key.text)
            signal = self._signal_named(kind, key)
            column = self._signal(kind, key.text, signal, value)
            if column is not None:
                found.append(column)
        section.close()
        return tuple(found)

    def _signal_named(self, kind: Kind, key: ScalarNode) -> Signal | None:
        signal = CATALOGUE.get((kind, key.text))
        where = f"signals.{key.text}"
        label = next(name for name, of in KINDS.items() if of is kind)
        if signal is None:
            known = [s.name for s in CATALOGUE.values() if s.kind is kind and s.role != "display"]
            elsewhere = sorted(name for name, of in KINDS.items() if (of, key.text) in CATALOGUE)
            other = f"; it is a signal of kind {elsewhere[0]}" if elsewhere else f"; known are {', '.join(known)}"
            advice = other if elsewhere else hint(key.text, known) or other
            self.findings.error("E063", f"'{key.text}' is no signal of kind {label}{advice}", key, where)
        elif signal.role == "display":
            self.findings.error("E063", f"'{key.text}' is for display only and cannot be recorded; record what it is made of", key, where)
            return None
        elif signal.role == "derived":
            self.findings.warn("W063", f"'{key.text}' is derived by reefd; recorded values take the place of its derivation", key, where)
        return signal

    def _signal(self, kind: Kind, name: str, signal: Signal | None, node: YamlNode) -> SignalColumn | None:
        where = f"signals.{name}"
        section = self._section(node, where, "{column: close, unit: price}")
        if section is None:
            return None
        column = self._column(section)
        unit_node = section.get("unit")
        units = Units()
        if signal is not None:
            units = self._units(kind, signal, unit_node, where) if unit_node is not None else self._assumed(signal, section)
        holds_for = self._durations(kind, section.get("holds_for"), f"{where}.holds_for")
        interval_node = section.get("interval")
        interval = self._durations(kind, interval_node, f"{where}.interval")
        if interval_node is not None and name != "funding_rate":
            self.findings.error("E064", "only funding_rate has a funding interval; use holds_for for the cadence", interval_node, where)
        section.close()
        if column is None or signal is None:
            return None
        return SignalColumn(signal=signal, column=column, units=units, holds_for=holds_for, interval=interval)

    def _assumed(self, signal: Signal, section: Section) -> Units:
        if signal.unit in ("rate/h", "ratio"):
            # Here a silent assumption would be wrong by 8 or by 100.
            example = "rate/h, rate/8h or %/8h" if signal.unit == "rate/h" else "ratio, % or bps"
            message = f"'{signal.name}' does not say its unit; write unit: {example}"
            self.findings.error("E065", message, section.node, section.where)
            return Units()
        return Units(default=conversion(signal.unit, signal.unit))

    def _unit(self, signal: Signal, node: YamlNode, where: str) -> Conversion | None:
        text = self.findings.text(node, where)
        if text is None:
            return None
        try:
            return conversion(text, signal.unit)
        except ValueError as error:
            self.findings.error("E065", f"{signal.name} is in {signal.unit}, {error}", node, where)
            return None

    def _units(self, kind: Kind, signal: Signal, node: YamlNode, where: str) -> Units:
        where = f"{where}.unit"
        if not isinstance(node, MapNode):
            return Units(default=self._unit(signal, node, where))
        by, entries = self._by(kind, node, where, "{by: venue, dydx: rate/h, default: rate/8h}")
        read = {key: self._unit(signal, value, f"{where}.{key}") for key, value in entries}
        values = {key: unit for key, unit in read.items() if unit is not None and key != DEFAULT}
        return Units(by=by, values=values, default=read.get(DEFAULT))

    def _durations(self, kind: Kind, node: YamlNode | None, where: str) -> Choice:
        if node is None:
            return Choice()
        if not isinstance(node, MapNode):
            return Choice(default=self._positive(node, where))
        by, entries = self._by(kind, node, where, "{by: venue, dydx: 1h, default: 8h}")
        read = {key: self._positive(value, f"{where}.{key}") for key, value in entries}
        values = {key: ns for key, ns in read.items() if ns is not None and key != DEFAULT}
        return Choice(by=by, values=values, default=read.get(DEFAULT))

    def _positive(self, node: YamlNode, where: str) -> int | None:
        read = self.findings.duration(node, where)
        if read is not None and read <= 0:
            self.findings.error("E061", f"a cadence is longer than nothing, found {describe(node)}; write for example 1h", node, where)
            return None
        return read

    def _by(self, kind: Kind, node: MapNode, where: str, example: str) -> tuple[str | None, Sequence[tuple[str, YamlNode]]]:
        section = Section(self.findings, node, where)
        found = section.required("by", example)
        by = None if found is None else self.findings.choice(found, f"{where}.by", KEYS[kind])
        return by, [(key.text, value) for key, value in node.entries if key.text != "by"]
