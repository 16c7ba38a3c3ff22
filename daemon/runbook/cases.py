"""The `tests:` and `replay:` of a runbook (floor 3): `read_tests(section, kind, lets, step_ids)`.

Values are quantities in the signal's unit of the catalogue: rates and ratios name theirs (`0.08%/h`), a bare number is taken for
prices, sizes, USD and plain numbers, `missing` is NaN. `given` of every test is the first test's, overridden by key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

from daemon.language.catalogue import CATALOGUE, RELATIONS, Signal, nearest
from daemon.runbook.fields import Findings, Section, describe, hint
from daemon.runbook.model import Acceptance, Expectation, Test
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.runbook.steps import ACTIONS
from daemon.units import DAY_NS, NS
from daemon.world.entities import Kind, Route

TESTS_MAX = 200
POINTS_MAX = 20_000
ENTITY_KEYS = ("market", "account", "venue", "chain", "route", "bucket")
TRIGGER_STATES = ("inactive", "pending", "firing", "clearing")
OUTCOMES = ("done", "rejected", "failed", "unknown")
RECONCILED = ("applied", "absent")
RUN_STATES = ("none", "waiting", "running", "done", "skipped", "blocked", "failed", "aborted", "unknown", "shadow")
_BARE = frozenset({"1", "price", "base", "USD"})
_ORDER = (Kind.POSITION, Kind.ACCOUNT, Kind.MARKET, Kind.VENUE, Kind.CHAIN, Kind.ROUTE, Kind.BUCKET, Kind.PORTFOLIO)
_PARAMETRISED = re.compile(r"([a-z_0-9]+)\([^()]*\)")
_ELSEWHERE = re.compile(r"([^\s:]+:[^\s.]+)\.([a-z_0-9]+)")
_ASSERTION = re.compile(r"\s*[a-z_]+(?:\.[a-z_]+)*\s*(?:<=|>=|==|!=|<|>)\s*(?:[a-z_]+(?:\.[a-z_]+)*|-?[\d._]+\s*(?:%|bps|USD|s|m|h|d)?)\s*")


def find_signal(kind: Kind, key: str) -> Signal | None:
    """The signal that a key of `given` or `series` names from a runbook of this scope: own, then nearest, then any scope that has it."""
    elsewhere = _ELSEWHERE.fullmatch(key)
    if elsewhere:
        return CATALOGUE.get((Kind.MARKET, elsewhere[2])) or CATALOGUE.get((Kind.POSITION, elsewhere[2]))
    scope, dot, name = key.rpartition(".")
    called = _PARAMETRISED.fullmatch(name)
    name = called[1] if called else name
    if dot:
        targets = [target for relation, target in RELATIONS[kind] if relation == scope] + [k for k in Kind if k.value == scope]
        return next((CATALOGUE[target, name] for target in targets if (target, name) in CATALOGUE), None)
    near = nearest(kind, name)
    if near:
        return near[0][1]
    return next((CATALOGUE[k, name] for k in _ORDER if (k, name) in CATALOGUE), None)


class _Cases:
    """Reads the tests of one runbook."""

    def __init__(self, findings: Findings, kind: Kind, lets: Collection[str], step_ids: Collection[str]) -> None:
        self.findings = findings
        self.kind = kind
        self.lets = lets
        self.step_ids = step_ids

    def signal(self, key: ScalarNode, where: str) -> Signal | None:
        found = find_signal(self.kind, key.text)
        if found is None or found.internal or found.role == "display":
            names = sorted(
                {name for (_, name), s in CATALOGUE.items() if not s.internal} | set(ENTITY_KEYS) | {"buffers", "routes", "labels"}
            )
            advice = hint(key.text.rpartition(".")[2], names) or "; see the signal catalogue, docs/signals.md"
            self.findings.error("E034", f"'{key.text}' is no signal{advice}", key, where)
            return None
        return found

    def value(self, node: YamlNode, signal: Signal, where: str) -> float | None:
        """A value in the signal's unit; NaN for `missing`."""
        if isinstance(node, ScalarNode) and node.text == "missing":
            return math.nan
        if signal.unit == "bool":
            word = self.findings.choice(node, where, ("true", "false"))
            return None if word is None else float(word == "true")
        read = self.findings.quantity(node, where, (signal.unit,), bare=signal.unit in _BARE)
        return None if read is None else read[0]

    # --- given --------------------------------------------------------------------------------------------------------
    def given(self, section: Section) -> dict[str, object]:
        read: dict[str, object] = {}
        for key, node in section.node.entries:
            where = section.path(key.text)
            found = self.one_given(key, node, where)
            if found is not None:
                read[key.text] = found
        return read

    def one_given(self, key: ScalarNode, node: YamlNode, where: str) -> object | None:
        match key.text:
            case "market" | "account" | "venue" | "chain" | "route" | "bucket":
                text = self.findings.text(node, where)
                if text is not None and key.text == "market" and ":" not in text:
                    self.findings.error("E031", f"a market is written venue:symbol, found '{text}'; write \"dydx:{text}\"", node, where)
                    return None
                return text
            case "buffers":
                return self.amounts(node, where)
            case "routes":
                return self.routes(node, where)
            case "labels":
                return self.labels(node, where)
            # Of a market, as in an account file: the fractions, not the account's USD sums of the catalogue.
            case "initial_margin" | "maintenance_margin":
                ratio = self.findings.quantity(node, where, ("ratio",))
                return None if ratio is None else ratio[0]
            case _:
                signal = self.signal(key, where)
                return None if signal is None else self.value(node, signal, where)

    def amounts(self, node: YamlNode, where: str) -> dict[str, float] | None:
        if not isinstance(node, MapNode):
            self.findings.error("E009", f"buffers is a mapping, found {describe(node)}; write {{ethereum: 100_000 USD}}", node, where)
            return None
        read: dict[str, float] = {}
        for key, value in node.entries:
            amount = self.findings.quantity(value, f"{where}.{key.text}", ("USD",), bare=True)
            if amount is not None:
                read[key.text] = amount[0]
        return read

    def labels(self, node: YamlNode, where: str) -> dict[str, str] | None:
        if not isinstance(node, MapNode):
            self.findings.error("E009", f"labels is a mapping, found {describe(node)}; write {{bucket: income}}", node, where)
            return None
        read = {key.text: self.findings.text(value, f"{where}.{key.text}") for key, value in node.entries}
        return {key: text for key, text in read.items() if text is not None}

    def routes(self, node: YamlNode, where: str) -> tuple[Route, ...] | None:
        example = "[{name: cctp, from: ethereum, to: dydx, eta: 20m, fee: 0.1%}]"
        if not isinstance(node, ListNode):
            self.findings.error("E009", f"routes is a list, found {describe(node)}; write {example}", node, where)
            return None
        read = []
        for i, item in enumerate(node.items):
            if not isinstance(item, MapNode):
                self.findings.error("E009", f"a route is a mapping, found {describe(item)}; write {example}", item, f"{where}[{i}]")
                continue
            section = Section(self.findings, item, f"{where}[{i}]", "a route")
            for name in ("name", "from", "to"):
                section.required(name, example)
            slow = section.duration("eta_p95", -1)
            capacity = section.usd("capacity")
            fee_node = section.get("fee")
            fee = self.findings.quantity(fee_node, section.path("fee"), ("ratio",)) if fee_node is not None else None
            read.append(
                Route(
                    name=section.text("name") or "", source=section.text("from") or "", destination=section.text("to") or "",
                    eta_ns=section.duration("eta", 0), eta_p95_ns=slow if slow >= 0 else None, fee=fee[0] if fee else 0.0,
                    capacity_usd=math.inf if capacity is None else capacity,
                )
            )  # fmt: skip
            section.close()
        return tuple(read)

    # --- series -------------------------------------------------------------------------------------------------------
    def series(self, section: Section) -> dict[str, tuple[tuple[int, float], ...]]:
        read: dict[str, tuple[tuple[int, float], ...]] = {}
        for key, node in section.node.entries:
            where = section.path(key.text)
            signal = self.signal(key, where)
            if not isinstance(node, MapNode):
                self.findings.error("E009", f"a series maps offsets to values, found {describe(node)}; write {{0s: 1, 5m: 2}}", node, where)
            elif signal is not None:
                read[key.text] = self.points(node, signal, where)
        return read

    def points(self, node: MapNode, signal: Signal, where: str) -> tuple[tuple[int, float], ...]:
        points: dict[int, float] = {}
        for key, value in node.entries:
            offset = self.findings.duration(key, where, negative=True)
            read = self.value(value, signal, f"{where}.{key.text}")
            if offset is None or read is None:
                continue
            if offset in points:
                self.findings.error("E033", f"the offset {key.text} is given twice; keep one of them", key, where)
            points[offset] = read
        return tuple(sorted(points.items()))

    # --- expectations -------------------------------------------------------------------------------------------------
    def expectation(self, section: Section) -> Expectation | None:
        section.name = "an expectation"
        node = section.required("at", "at: 4m")
        at = self.findings.duration(node, section.path("at")) if node is not None else None
        state_node, run_node, spent_node = section.get("state"), section.get("run"), section.get("spent")
        state = (
            self.findings.choice(state_node, section.path("state"), TRIGGER_STATES)
            if state_node is not None
            else None
        )
        run = self.findings.choice(run_node, section.path("run"), RUN_STATES) if run_node is not None else None
        did, would = self.actions(section, "did"), self.actions(section, "would")
        spent = self.findings.quantity(spent_node, section.path("spent"), ("USD",), bare=True) if spent_node is not None else None
        unknown = self.unknowns(section)
        section.close()
        if at is None:
            return None
        line, _ = self.findings.document.position(section.node.start)
        return Expectation(
            at_ns=at, state=state, run=run, did=did, would=would, spent=spent[0] if spent else None, unknown=unknown, line=line
        )

    def actions(self, section: Section, key: str) -> tuple[str, ...] | None:
        node = section.get(key)
        if node is None:
            return None
        words = section.texts(key, "[halt, shrink_position]")
        for word in words:
            if word not in ACTIONS:
                self.findings.error(
                    "E030", f"'{word}' is no action{hint(word, ACTIONS) or '; actions are ' + ', '.join(ACTIONS)}", node, section.path(key)
                )
        return words

    def unknowns(self, section: Section) -> tuple[str, ...] | None:
        node = section.get("unknown")
        if node is None:
            return None
        words = section.texts("unknown", "[funding_rate]")
        for word in words:
            if word not in self.lets and find_signal(self.kind, word) is None:
                known = sorted({name for _, name in CATALOGUE})
                self.findings.error("E034", f"'{word}' is no signal{hint(word, known)}", node, section.path("unknown"))
        return words

    # --- the world's part ---------------------------------------------------------------------------------------------
    def mocks(self, section: Section) -> dict[str, object]:
        read: dict[str, object] = {}
        for key, node in section.node.entries:
            where = section.path(key.text)
            if key.text not in ACTIONS:
                self.findings.error(
                    "E030", f"'{key.text}' is no action{hint(key.text, ACTIONS) or '; actions are ' + ', '.join(ACTIONS)}", key, where
                )
            elif isinstance(node, ListNode):
                read[key.text] = [self.mock(item, f"{where}[{i}]") for i, item in enumerate(node.items)]
            else:
                read[key.text] = self.mock(node, where)
        return read

    def mock(self, node: YamlNode, where: str) -> dict[str, object]:
        if not isinstance(node, MapNode):
            self.findings.error(
                "E009", f"a mock is a mapping, found {describe(node)}; write {{outcome: unknown, reconcile: applied}}", node, where
            )
            return {}
        section = Section(self.findings, node, where, "a mock")
        section.required("outcome", "outcome: rejected")
        read: dict[str, object] = {"outcome": section.choice("outcome", OUTCOMES, "done")}
        if section.has("reconcile"):
            read["reconcile"] = section.choice("reconcile", RECONCILED, "absent")
        if section.has("reason"):
            read["reason"] = section.text("reason") or ""
        sets = section.section("sets", "sets: {size: 5}")
        if sets is not None:
            values: dict[str, float] = {}
            for key, value in sets.node.entries:
                signal = self.signal(key, sets.path(key.text))
                number = self.value(value, signal, sets.path(key.text)) if signal is not None else None
                if number is not None:
                    values[key.text] = number
            read["sets"] = values
        section.close()
        return read

    def approvals(self, section: Section) -> tuple[tuple[int, str], ...]:
        read = []
        for key, node in section.node.entries:
            offset = self.findings.duration(key, section.where)
            step = self.findings.text(node, section.path(key.text))
            if step is not None and step not in self.step_ids:
                message = f"there is no step '{step}'{hint(step, list(self.step_ids))}"
                self.findings.error("E034", message, node, section.path(key.text))
            elif offset is not None and step is not None:
                read.append((offset, step))
        return tuple(sorted(read))

    def restart(self, section: Section) -> tuple[int, int]:
        section.name = "restart"
        section.required("at", "at: 1m")
        section.required("down", "down: 20s")
        read = section.duration("at", 0), section.duration("down", 0)
        section.close()
        return read

    def test(self, section: Section, inherited: Mapping[str, object], names: dict[str, ScalarNode]) -> Test:
        section.name = "a test"
        name_node = section.required("name", "name: fires after 3m")
        name = self.findings.text(name_node, section.path("name")) if name_node is not None else None
        if name is not None and isinstance(name_node, ScalarNode):
            if name in names:
                line, _ = self.findings.document.position(names[name].start)
                self.findings.error("E033", f"the test name '{name}' is used twice, first in line {line}", name_node, section.path("name"))
            names.setdefault(name, name_node)
        given_at, series_at = section.section("given", "{size: 10}"), section.section("series", "{funding_rate: {0s: 0.08%/h}}")
        given = dict(inherited) | (self.given(given_at) if given_at is not None else {})
        series = self.series(series_at) if series_at is not None else {}
        section.required("expect", "expect: [{at: 4m, state: firing}]")
        expect = [self.expectation(item) for item in section.sections("expect", "[{at: 4m, state: firing}]")]
        node = section.get("expect")
        if isinstance(node, ListNode) and not node.items:
            self.findings.error(
                "E008", "the test expects nothing; write for example expect: [{at: 4m, state: firing}]", node, section.path("expect")
            )
        mocks = section.section("mocks", "{shrink_position: {outcome: unknown, reconcile: applied}}")
        approvals = section.section("approvals", "{2m: shrink}")
        restart = section.section("restart", "{at: 1m, down: 20s}")
        stage_node = section.get("stage")
        stage = self.findings.choice(stage_node, section.path("stage"), ("disabled", "shadow", "armed")) if stage_node is not None else None
        every = section.duration("every", 5 * NS)
        line, _ = self.findings.document.position(section.node.start)
        test = Test(
            name=name or "", given=given, series=series, expect=tuple(item for item in expect if item is not None),
            mocks=self.mocks(mocks) if mocks is not None else {}, approvals=self.approvals(approvals) if approvals is not None else (),
            restart=self.restart(restart) if restart is not None else None, stage=stage, every_ns=every, line=line,
        )  # fmt: skip
        self.bounded(section, test)
        section.close()
        return test

    def bounded(self, section: Section, test: Test) -> None:
        """A test that would take minutes to run is a mistake, not a wish."""
        if test.every_ns <= 0:
            node = section.node.get("every") or section.node
            self.findings.error("E032", "every is above 0s", node, section.path("every"))
            return
        last = max((item.at_ns for item in test.expect), default=0)
        if last // test.every_ns > POINTS_MAX:
            message = f"the test samples {last // test.every_ns:,} times, at most {POINTS_MAX:,}; write a longer every:"
            self.findings.error("E032", message, section.node, section.path("every"))
        first = min((points[0][0] for points in test.series.values() if points), default=0)
        if -first > 400 * DAY_NS or last > 400 * DAY_NS:
            self.findings.error("E032", "the test spans more than 400 days", section.node, section.where)


def read_tests(top: Section, kind: Kind, lets: Collection[str], step_ids: Collection[str]) -> tuple[Test, ...]:
    """The tests of a runbook, `given` inherited from the first."""
    cases = _Cases(top.findings, kind, lets, step_ids)
    sections = top.sections("tests", "tests: [{name: ..., given: {...}, series: {...}, expect: [...]}]")
    if len(sections) > TESTS_MAX:
        top.findings.error("E032", f"{len(sections)} tests, at most {TESTS_MAX} a runbook", sections[TESTS_MAX].node, "tests")
    tests: list[Test] = []
    names: dict[str, ScalarNode] = {}
    for section in sections[:TESTS_MAX]:
        tests.append(cases.test(section, tests[0].given if tests else {}, names))
    return tuple(tests)


def read_replay(top: Section) -> tuple[Acceptance, ...]:
    """The acceptance over recordings."""
    read = []
    for section in top.sections("replay", 'replay: [{data: hype-2026, assert: ["liquidations.with <= liquidations.without"]}]'):
        section.name = "an acceptance"
        section.required("data", "data: hype-2026")
        node = section.required("assert", "assert: [runs <= 12]")
        recording, asserts = section.text("data"), section.texts("assert", "[runs <= 12]")
        for text in asserts:
            if not _ASSERTION.fullmatch(text) and node is not None:
                top.findings.error(
                    "E031",
                    f"an assertion compares a figure of the report, found '{text}'; write for example pnl.delta > -1_000 USD",
                    node,
                    section.path("assert"),
                )
        section.close()
        line, _ = top.findings.document.position(section.node.start)
        if recording is not None:
            read.append(Acceptance(recording=recording, asserts=asserts, line=line))
    return tuple(read)
