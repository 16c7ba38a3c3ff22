"""The JSON Schema of runbooks: it takes what the loader takes, refuses what the loader refuses for its structure, and knows every key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from runbook_example import EXAMPLE

from daemon.runbook import fields
from daemon.runbook.document import compose
from daemon.runbook.load import load_text
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.runbook.schema import runbook_schema
from daemon.runbook.templates import template_names, template_text

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = runbook_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
SHIPPED = sorted((ROOT / "runbooks").glob("*.yaml")) + sorted((ROOT / "docs/real-history/runbooks").glob("*.yaml"))


def core(node: YamlNode | None) -> object:
    """The value that a YAML 1.2 parser gives an editor: numbers, truths and nothing where the core schema sees them."""
    match node:
        case MapNode(entries=entries):
            return {key.text: core(value) for key, value in entries}
        case ListNode(items=items):
            return [core(item) for item in items]
        case ScalarNode(style="", text=text):
            if node.empty:
                return None
            if text.lower() in ("true", "false"):
                return text.lower() == "true"
            if re.fullmatch(r"[-+]?[0-9]+", text):
                return int(text)
            if re.fullmatch(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", text):
                return float(text)
            return text
        case ScalarNode(text=text):
            return text
        case _:
            return None


def complaints(text: str) -> list[str]:
    """What the schema has against a text."""
    return [error.json_path + ": " + error.message[:200] for error in VALIDATOR.iter_errors(core(compose(text, "x.yaml").root))]


def objects(schema: object, path: str = "$") -> Iterator[tuple[str, dict[str, object]]]:
    """Every schema with `properties`, with its path."""
    if isinstance(schema, dict):
        if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
            yield path, schema
        for name, inner in schema.items():
            yield from objects(inner, f"{path}.{name}")
    elif isinstance(schema, list):
        for i, inner in enumerate(schema):
            yield from objects(inner, f"{path}[{i}]")


def test_the_schema_is_a_draft_2020_12_schema() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_the_committed_schema_is_the_one_that_the_code_generates() -> None:
    written = (ROOT / "config/schema/runbook.json").read_text(encoding="utf-8")
    assert json.loads(written) == SCHEMA, "write it anew: reefd schema runbook > config/schema/runbook.json"


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_runbook_is_right_by_the_schema(path: Path) -> None:
    assert complaints(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("name", template_names())
def test_a_template_is_right_by_the_schema(name: str) -> None:
    assert complaints(template_text(name)) == []


def test_the_example_with_nearly_every_key_is_right_by_the_schema() -> None:
    assert load_text(EXAMPLE, "x.yaml").ok
    assert complaints(EXAMPLE) == []


def test_every_key_is_described_with_examples_that_are_right() -> None:
    silent, wrong = [], []
    for path, schema in objects(SCHEMA):
        properties = schema["properties"]
        assert isinstance(properties, dict)
        for name, inner in properties.items():
            where = f"{path}.{name}"
            if where.startswith("$.allOf"):
                continue
            if len(str(inner.get("description", ""))) < 5:
                silent.append(where)
            resolved = {**inner, "$defs": SCHEMA["$defs"]}
            examples = inner.get("examples", [])
            # Signals get their examples from the shape of their unit.
            if not examples and "$ref" not in inner and "max_age" not in path and "mocks" not in path:
                silent.append(f"{where} has no example")
            wrong += [f"{where}: {example!r}" for example in examples if not Draft202012Validator(resolved).is_valid(example)]
    assert (silent, wrong) == ([], [])


FULL = """\
schema: reefd/v1
runbook: everything
title: Every key once
owner: me
severity: info
intent: economy
labels: {a: b}
review: {every: month, last: 2026-10-01}
stage: shadow
scope: position
where: bucket != "x"
max_age: {oracle_price: 30s, venue.block_age: 10s}
params: {hold: 3m, most: {default: 100 USD, min: 1 USD, max: 9_000 USD, doc: most}}
let: {paid: funding_paid}
trigger: {when: paid > 1%/h, for: hold, until: paid < 0.5%/h, until_for: 1m, on_unknown: hold}
cooldown: 1m
repeat: {every: 1h, max: 3}
mode: queued
locks: [account]
priority: 3
inhibited_by: [other]
guards: [spread < 1%]
guard_wait: 1m
limits: {per_run: most, per_day: 2 USD, per_episode: 3 USD, runs: 6/day}
steps:
  - id: a
    when: size > 0 base
    shrink_position: {by: 25%, max_slippage: 1%, max_share_of_depth: 1%, slices: 2, every: 1s, stop_when: size == 0 base}
    approval: {when: notional_change > 1 USD, from: [me], quorum: 1, timeout: 2m, otherwise: skip}
    timeout: 20s
    retry: {attempts: 2, backoff: 1s}
    verify: {that: size == 0 base, within: 1s}
    on_failure: continue
  - {id: a2, shrink_position: {to: 0 base}}
  - id: b
    shrink_account:
      {to_margin_ratio: 40%, order: pro_rata, max_slippage: 1%, max_share_of_depth: 1%, slices: 2, every: 1s, stop_when: paid < 0%/h}
  - {id: b2, shrink_account: {by: 25%}}
  - {id: c, move_buffer: {from: ethereum, to: dydx, amount: 5 USD, route: best, max_fee: 1%, deadline: 1h, keep_at_source: 1 USD}}
  - {id: c2, move_buffer: {from: ethereum, to_ratio: 40%}}
  - {id: d, cancel_orders: {scope: market}}
  - {id: e, halt: {scope: position}}
  - {id: f, resume: {scope: position}}
  - {id: g, rebalance: {bucket: income, to: edge}}
  - {id: g2, rebalance: {all: true}}
  - {id: h, notify: {to: [desk], text: "{market}"}}
  - {id: i, webhook: {endpoint: custody, payload: {a: [1, true, {b: "{size}"}]}}}
  - {id: j, wait: {that: venue_up, within: 1m}}
  - {id: k, pause: {runbook: everything, for: 1m}}
on_clear: [{id: z, resume: {scope: position}}]
on_failure: {notify: [page], then: pause}
notify: {to: [desk], events: [fired], repeat: 1h}
tests:
  - name: one
    stage: armed
    given:
      market: "dydx:ETH-USD"
      account: dydx
      buffers: {ethereum: 5 USD}
      routes: [{name: r, from: ethereum, to: dydx, eta: 1m, eta_p95: 2m, fee: 1%, capacity: 5 USD}]
      labels: {bucket: core}
      initial_margin: 8%
      size: 10
      venue.block_age: 1s
      "buffer(ethereum)": 5
      aevo:ETH-USD.mid_price: 3000
    series: {funding_rate: {-1d: 0.001%/h, 0s: missing}, venue_up: {0s: true}}
    mocks: {shrink_position: {outcome: rejected, reconcile: absent, reason: no, sets: {size: 5}}, halt: [{outcome: done}]}
    approvals: {1m: a}
    restart: {at: 1m, down: 20s}
    every: 10s
    expect: [{at: 1m, state: pending, run: none, did: [], would: [], spent: 0 USD, unknown: [paid]}]
replay: [{data: r, assert: [runs <= 12]}]
"""
# Mappings whose keys are the writer's own: the loader asks for none by name.
FREE = {"labels", "max_age", "params", "let", "payload", "given", "series", "mocks", "approvals", "buffers", "sets", "oneOf"}


def test_the_loader_asks_for_exactly_the_keys_that_the_schema_has(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, set[str]] = {}
    close = fields.Section.close

    def closing(self: fields.Section, reserved: object = None) -> None:
        place = re.sub(r"\[\d+\]", "", self.where)
        place = re.sub(r"^on_clear|^tests\.mocks\.\w+", lambda m: "steps" if m[0] == "on_clear" else "tests.mocks.*", place)
        place = re.sub(r"^params\.\w+", "params.*", place)
        asked.setdefault(place, set()).update(self.asked)
        close(self, reserved)  # type: ignore[arg-type]

    monkeypatch.setattr(fields.Section, "close", closing)
    loaded = load_text(FULL, "x.yaml")
    assert [e.render() for e in loaded.errors] == []
    assert complaints(FULL) == []
    known: dict[str, set[str]] = {}
    for place, keys in keyed(SCHEMA, ""):
        known.setdefault(re.sub("^on_clear", "steps", place), set()).update(keys)
    assert {place: sorted(keys) for place, keys in asked.items()} == {place: sorted(keys) for place, keys in known.items()}


def keyed(schema: object, place: str) -> Iterator[tuple[str, dict[str, object]]]:
    """Places of a runbook whose keys are known, with those keys; places as the loader calls them."""
    if not isinstance(schema, dict):
        return
    if "$ref" in schema:
        name = str(schema["$ref"]).removeprefix("#/$defs/")
        definitions = SCHEMA["$defs"]
        assert isinstance(definitions, dict)
        if place.rpartition(".")[2] not in ("sets", "series") and not name.startswith("value_"):
            yield from keyed(definitions[name], place)
        return
    for inner in schema.get("anyOf", []):
        yield from keyed(inner, place)
    if schema.get("type") == "array":
        yield from keyed(schema["items"], place)
    if place == "params":
        yield from keyed(schema["additionalProperties"], "params.*")
        return
    properties = schema.get("properties")
    last = place.rpartition(".")[2]
    if last == "given":
        assert isinstance(properties, dict)
        yield from keyed(properties["routes"], f"{place}.routes")
        return
    if isinstance(properties, dict) and last not in FREE:
        yield place, properties
    if isinstance(properties, dict) and last not in ("max_age", "series", "sets"):
        for name, inner in properties.items():
            if last == "mocks" and name != "halt":
                continue
            yield from keyed(inner, f"{place}.{'*' if last == 'mocks' else name}" if place else name)


# What is wrong, as a change of the example: (written, instead).
MUTATIONS = {
    "an unknown key at the top": ("priority: 50", "priorty: 50"),
    "an unknown key of the trigger": ("  until_for: 10m", "  until_four: 10m"),
    "an unknown key of a step": ("    timeout: 20s", "    timeot: 20s"),
    "an unknown action": ("    halt: {scope: position}", "    hlt: {scope: position}"),
    "an unknown key of an action": ("slices: 4", "slice: 4"),
    "an unknown key of limits": ("runs: 6/day", "run: 6/day"),
    "an unknown key of an approval": ("quorum: 1", "quorums: 1"),
    "an unknown key of a test": ("    restart: {at: 1m, down: 20s}", "    restarted: {at: 1m, down: 20s}"),
    "an unknown key of an expectation": ("did: []", "done: []"),
    "an unknown signal in given": ("venue_up_for: 1h", "venue_up_four: 1h"),
    "an unknown signal in a series": ("series: {funding_rate: {0s", "series: {funding_rat: {0s"),
    "an unknown signal in max_age": ("max_age: {oracle_price: 30s}", "max_age: {oracle_prize: 30s}"),
    "a derived signal in max_age": ("max_age: {oracle_price: 30s}", "max_age: {mid_price: 30s}"),
    "a missing title": ("title: Funding spike - stop adding, and shrink where shrinking pays\n", ""),
    "a missing trigger": ("trigger:\n  when", "labelz:\n  when"),
    "a missing when": ("  when: paid > 0.05%/h and funding_rate > quantile(funding_rate, 99%, 7d)\n", ""),
    "a step without an id": ("  - id: stop-adding\n    halt", "  - halt"),
    "a step without an action": ("    halt: {scope: position}\n", ""),
    "a step with two actions": ("    halt: {scope: position}\n", "    halt: {scope: position}\n    cancel_orders: {scope: market}\n"),
    "by and to at once": ("{by: 25%, ", "{by: 25%, to: 50%, "),
    "neither by nor to": ("{by: 25%, ", "{"),
    "a step that writes without an intent": ("intent: economy\n", ""),
    "no steps": ("steps:\n", "steps: []\nlet_go:\n"),
    "a text for a list": ("locks: [position]", "locks: position"),
    "a list for a text": ("owner: perps-desk", "owner: [perps-desk]"),
    "a mapping for a text": ("owner: perps-desk", "owner: {desk: perps}"),
    "nothing for a text": ("owner: perps-desk", "owner:"),
    "a text for a mapping": ("limits: {per_run: 25_000 USD, per_day: 60_000 USD, per_episode: 50%, runs: 6/day}", "limits: 25_000 USD"),
    "a list for an expression": ("  until: paid < 0.02%/h", "  until: [paid < 0.02%/h]"),
    "a word that is not allowed": ("severity: warning", "severity: warn"),
    "a stage that is not allowed": ("stage: armed", "stage: live"),
    "a scope that is not allowed": ("scope: position\nwhere", "scope: positions\nwhere"),
    "another schema": ("schema: reefd/v1", "schema: reefd/v2"),
    "an id with capitals": ("runbook: funding-spike", "runbook: Funding_Spike"),
    "a step id with capitals": ("id: stop-adding", "id: Stop"),
    "a duration without a unit": ("cooldown: 30m", "cooldown: 30"),
    "a negative duration": ("cooldown: 30m", "cooldown: -30m"),
    "an amount without a unit": ("per_run: 25_000 USD", "per_run: 25_000"),
    "an amount that is a ratio": ("per_run: 25_000 USD", "per_run: 25%"),
    "a ratio that is a number": ("max_slippage: 15bps", "max_slippage: 15"),
    "runs without a time": ("runs: 6/day", "runs: 6"),
    "a count that is a fraction": ("slices: 4", "slices: 4.5"),
    "too many slices": ("slices: 4", "slices: 400"),
    "a date that is none": ("last: 2026-10-01", "last: October"),
    "a rate without a unit in a series": ("0s: 0.08%/h, 30m", "0s: 0.08, 30m"),
    "an offset that is no duration": ("30m: missing", "30: missing"),
    "a truth that is none": ("market_open: true", "market_open: open"),
    "a market without its venue": ('market: "dydx:ETH-USD"', "market: ETH-USD"),
    "an outcome that is not allowed": ("outcome: unknown", "outcome: lost"),
    "an unknown action in mocks": ("mocks: {shrink_position:", "mocks: {shrink:"),
    "an unknown action in did": ("did: [halt, shrink_position]", "did: [halt, shrink]"),
    "a test that expects nothing": ("expect: [{at: 6m30s, state: firing, unknown: [funding_rate]}]", "expect: []"),
    "a test without a name": ("  - name: a short\n    given", "  - given"),
    "an event that is not allowed": ("events: [fired, acted", "events: [fires, acted"),
    "a notice to nobody": ("    notify: {to: [desk], text", "    notify: {to: [], text"),
    "a verify without a time": (", within: 15s}", "}"),
}


@pytest.mark.parametrize("name", sorted(MUTATIONS))
def test_what_the_loader_refuses_for_its_structure_the_schema_refuses_too(name: str) -> None:
    written, instead = MUTATIONS[name]
    assert written in EXAMPLE, f"the example does not say {written!r}"
    changed = EXAMPLE.replace(written, instead, 1)
    assert load_text(changed, "x.yaml").errors, "the loader takes it"
    assert complaints(changed), "the schema takes it"


def scalars(node: YamlNode | None) -> Iterator[ScalarNode]:
    """Every value that is a scalar."""
    if isinstance(node, MapNode):
        for _, value in node.entries:
            yield from scalars(value)
    elif isinstance(node, ListNode):
        for item in node.items:
            yield from scalars(item)
    elif isinstance(node, ScalarNode):
        yield node


VALUES = list(scalars(compose(EXAMPLE, "x.yaml").root))
INSTEAD = ["[x]", "{x: y}", "", "3m", "25%", "5 USD", "4", "true", "word", "~", "0.5"]
STRUCTURE = {"E006", "E007", "E008", "E009", "E030"}


@settings(max_examples=120, deadline=None)
@given(at=st.integers(0, len(VALUES) - 1), written=st.sampled_from(INSTEAD))
def test_a_value_that_the_loader_refuses_for_its_shape_is_refused_by_the_schema_and_what_it_takes_is_taken(at: int, written: str) -> None:
    node = VALUES[at]
    changed = EXAMPLE[: node.start] + written + EXAMPLE[node.end :]
    loaded = load_text(changed, "x.yaml")
    found = complaints(changed)
    if loaded.ok:
        assert found == []
    if any(error.code in STRUCTURE for error in loaded.errors):
        assert found, [error.render() for error in loaded.errors]
