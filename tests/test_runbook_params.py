"""`params:` of a runbook: named constants in expressions and fields, their mistakes, and values set from outside."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.engine.layout import Layout
from daemon.errors import Diagnostic
from daemon.language.terms import Window, walk
from daemon.runbook.compile import compile_runbook
from daemon.runbook.document import compose
from daemon.runbook.load import Loaded, load_text
from daemon.runbook.model import Runbook, Shrink
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.runbook.override import Variants, overridden
from daemon.units import DAY_NS, MINUTE_NS
from tests.runbook_example import EXAMPLE

BOOK = """\
schema: reefd/v1
runbook: spike
title: Shrink while it pays too much
owner: desk
severity: warning
intent: economy
stage: armed
scope: position
params:
  threshold: {default: 0.05%/h, min: 0.01%/h, max: 1%/h, doc: what an hour may cost}
  hold: 3m
  lookback: 7d
  rank: 99%
  share_sold: 25%
  per_run: 25_000 USD
  tries: 3
let:
  paid: funding_rate * sign(size)
trigger:
  when: paid > threshold and funding_rate > quantile(funding_rate, rank, lookback)
  for: hold
  until: paid < 0.4 * threshold
cooldown: hold
limits: {per_run: per_run}
guards: [oracle_divergence < 50bps]
steps:
  - id: shrink
    shrink_position: {by: share_sold, max_slippage: 15bps}
    retry: {attempts: tries}
  - id: tell
    notify: {to: [desk], text: "{market} pays more than {threshold}"}
"""


def book(loaded: Loaded) -> Runbook:
    assert not loaded.errors, [error.render() for error in loaded.errors]
    (found,) = loaded.runbooks
    return found


def errors(text: str) -> list[Diagnostic]:
    return list(load_text(text, "spike.yaml").errors)


def source(runbook: Runbook) -> tuple[str, str]:
    """The generated text of a runbook, and of the windows it asks for."""
    layout = Layout(frozenset())
    program = compile_runbook(runbook, layout, frozenset(), layout.trigger(runbook.scope, runbook.id))
    return program.source, layout.pushers()[0]


def test_a_param_stands_for_its_literal_in_expressions_and_in_fields() -> None:
    found = book(load_text(BOOK, "spike.yaml"))
    assert (found.trigger.for_ns, found.cooldown_ns, found.limits.per_run_usd) == (3 * MINUTE_NS, 3 * MINUTE_NS, 25_000.0)
    assert found.steps[0].retry.attempts == 3
    act = found.steps[0].act
    assert isinstance(act, Shrink)
    assert act.by is not None
    assert act.by.unit == "ratio"
    assert (found.params["threshold"].value, found.params["threshold"].unit) == (0.0005, "rate/h")
    assert found.params["threshold"].doc == "what an hour may cost"


def test_a_runbook_with_params_decides_by_the_logic_of_the_one_with_literals() -> None:
    written = BOOK.replace("paid > threshold", "paid > 0.05%/h").replace("rank, lookback", "99%, 7d").replace("for: hold", "for: 3m")
    written = written.replace("0.4 * threshold", "0.4 * 0.05%/h")
    assert book(load_text(BOOK, "a")).logic_digest == book(load_text(written, "b")).logic_digest
    other = BOOK.replace("default: 0.05%/h", "default: 0.06%/h")
    assert book(load_text(BOOK, "a")).logic_digest != book(load_text(other, "b")).logic_digest


def test_the_value_of_a_param_is_no_part_of_the_generated_text() -> None:
    texts = {
        source(book(overridden(BOOK, "spike.yaml", values)))
        for values in (
            {}, {"threshold": "0.02%/h"}, {"hold": "1m"}, {"lookback": "3d"}, {"rank": "90%"}, {"share_sold": "50%"},
            {"guards[0].threshold": "70bps"}, {"hold": "0s", "trigger.for": "5m"}, {"threshold": "1%/h", "share_sold": "1%"},
        )
    }  # fmt: skip
    assert len(texts) == 1


def test_a_length_that_a_derived_signal_takes_may_be_a_param_and_counts_as_logic() -> None:
    text = BOOK.replace("paid > threshold and", "paid > threshold and realized_vol(lookback) > 10% and")
    assert book(load_text(text, "a")).logic_digest != book(overridden(text, "a", {"lookback": "1d"})).logic_digest


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (("paid > threshold", "paid > share_sold"), "E014", "paid is a rate per hour, found a ratio: the param share_sold; give the param"),
        (("for: hold", "for: threshold"), "E031", "trigger.for is a duration, found the param threshold, a rate per hour: 0.05%/h"),
        (("for: hold", "for: hodl"), "E034", "trigger.for is a duration, and there is no param 'hodl'; did you mean 'hold'?"),
        (("paid > threshold", "paid > treshold"), "E011", "unknown name 'treshold'; did you mean threshold?"),
        (("rank, lookback", "rank, threshold"), "E013", "a window's length is a duration above 0, found a rate per hour"),
        (("rank, lookback", "lookback, lookback"), "E013", "the rank of a quantile is a ratio literal from 0% to 100%, found 'lookback'"),
        (("  hold: 3m", "  size: 3m"), "E041", "'size' is a signal already; give the param another name"),
        (("  hold: 3m", "  amount: 3m"), "E041", "'amount' is a word of the language already"),
        (("  paid: funding", "  hold: funding"), "E041", "'hold' is a param already; give the let another name"),
        (("default: 0.05%/h", "default: 2%/h"), "E032", "params.threshold is 2%/h, above its max of 1%/h"),
        (("default: 0.05%/h", "default: 0.001%/h"), "E032", "params.threshold is 0.001%/h, below its min of 0.01%/h"),
        (("min: 0.01%/h", "min: 0.01%"), "E031", "params.threshold.min is a rate per hour like the default 0.05%/h, found a ratio: 0.01%"),
        (("min: 0.01%/h", "min: 2%/h"), "E032", "params.threshold.min is above its max"),
        (("default: 0.05%/h, ", ""), "E008", "the key 'default' is missing in a param"),
        (("max: 1%/h", "most: 1%/h"), "E007", "unknown key 'most' in a param"),
        (("  hold: 3m", "  hold: soon"), "E031", "params.hold is a literal with its unit, found 'soon'"),
        (("  hold: 3m", "  hold: [3m]"), "E009", "params.hold is a literal or a mapping, found a list"),
        (("tries: 3", "tries: 2.5"), "E031", "attempts is a whole number, found '2.5'"),
        (("share_sold: 25%", "share_sold: 125%"), "E032", "by is above 0% and at most 100%"),
        (("0.4 * threshold", "0.4 * hold@start"), "E018", "hold is a param and never changes; write hold"),
    ],
)
def test_a_wrong_param_is_one_message_that_says_what_to_write(change: tuple[str, str], code: str, says: str) -> None:
    assert change[0] in BOOK
    found = [error for error in errors(BOOK.replace(*change)) if error.code == code and says in error.message]
    assert len(found) == 1, [error.render() for error in errors(BOOK.replace(*change))]
    assert found[0].source_line
    if "hold: [3m]" in change[1] or "soon" in change[1]:
        assert len(errors(BOOK.replace(*change))) == 1  # what uses it is not told again


def test_a_param_that_nothing_names_is_warned_of_at_its_name() -> None:
    loaded = load_text(BOOK.replace("  tries: 3", "  tries: 3\n  spare: 1h"), "spike.yaml")
    (warning,) = [found for found in loaded.warnings if found.code == "W012"]
    assert (warning.where, warning.line, warning.column) == ("params.spare", 17, 3)


# --- values from outside ----------------------------------------------------------------------------------------------------


def scalars(node: YamlNode, path: str = "") -> list[str]:
    """The paths of every scalar field."""
    match node:
        case ScalarNode():
            return [path] if path and not node.empty else []
        case MapNode(entries=entries):
            return [found for key, value in entries for found in scalars(value, f"{path}.{key.text}" if path else key.text)]
        case ListNode(items=items):
            return [found for i, item in enumerate(items) for found in scalars(item, f"{path}[{i}]")]


@pytest.mark.parametrize("text", [BOOK, EXAMPLE, Path("runbooks/margin-low.yaml").read_text(encoding="utf-8")])
def test_setting_a_field_to_its_own_value_changes_nothing(text: str) -> None:
    root = compose(text, "x").root
    assert root is not None
    variants = Variants(text, "x")
    paths = [path for path in scalars(root) if "." not in path.rpartition(":")[2] or not path.startswith(("tests", "replay"))]
    assert len(paths) > 20
    for path in paths:
        own = variants.value(path)
        if own is not None:
            assert variants.text({path: own}) == text, path


@settings(max_examples=40, deadline=None)
@given(
    threshold=st.integers(1, 100).map(lambda n: f"{n / 100}%/h"),
    hold=st.integers(0, 900).map(lambda n: f"{n}s"),
    share=st.integers(1, 100).map(lambda n: f"{n}%"),
)
def test_a_runbook_with_values_set_is_the_one_with_them_written(threshold: str, hold: str, share: str) -> None:
    values = {"trigger.when.threshold": threshold, "trigger.for": hold, "steps.shrink.shrink_position.by": share}
    changed = book(overridden(BOOK, "spike.yaml", values))
    written = BOOK.replace("default: 0.05%/h", f"default: {threshold}").replace("for: hold", f"for: {hold}")
    written = written.replace("by: share_sold", f"by: {share}")
    assert changed.source == written
    assert changed.digest == book(load_text(written, "spike.yaml")).digest
    bare = book(Variants(BOOK, "spike.yaml").load(values, acceptance=False))
    assert bare.logic_digest == changed.logic_digest


def test_paths_name_params_fields_steps_by_id_and_the_only_literal_of_a_condition() -> None:
    values = {
        "threshold": "0.08%/h", "trigger.for": "1m", "cooldown": "10m", "steps.shrink.shrink_position.max_slippage": "20bps",
        "limits.per_run": "9_000 USD", "guards[0].threshold": "70bps", "steps[1].notify.text": "a: {market}",
    }  # fmt: skip
    found = book(overridden(BOOK, "spike.yaml", values))
    assert found.params["threshold"].text == "0.08%/h"
    assert (found.trigger.for_ns, found.cooldown_ns, found.limits.per_run_usd) == (MINUTE_NS, 10 * MINUTE_NS, 9_000.0)
    assert found.guards[0].text == "oracle_divergence < 70bps"
    assert DAY_NS * 7 in {term.duration_ns for e in found.expressions for term in walk(e.typed.term) if isinstance(term, Window)}
    literal = BOOK.replace("when: paid > threshold and funding_rate > quantile(funding_rate, rank, lookback)", "when: paid > 0.05%/h")
    assert book(overridden(literal, "x", {"trigger.when.threshold": "0.09%/h"})).trigger.when.text == "paid > 0.09%/h"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("trigger.fro", "3m", "cannot set trigger.fro: 'fro' is not written there; did you mean 'for'?"),
        ("steps.shrunk.shrink_position.by", "3%", "'shrunk' is not written there; did you mean 'shrink'?"),
        ("treshold", "1%/h", "cannot set treshold: 'treshold' is not written there; did you mean 'threshold'?"),
        ("steps.shrink", "3", "it is a mapping, and one field is set at a time; write for example steps.shrink.id"),
        ("threshold", "5%", "the param is a rate per hour (0.05%/h), found a ratio: 5%; write it like its default"),
        ("trigger.when.share_sold", "5%", "trigger.when does not use the param 'share_sold'; write params.share_sold"),
        ("trigger.until.limit", "5%", "trigger.until uses the param threshold; write threshold"),
        ("hold", "", "the value is empty or runs over several lines"),
    ],
)
def test_a_path_that_cannot_be_set_is_one_message(path: str, value: str, says: str) -> None:
    (error,) = overridden(BOOK, "spike.yaml", {path: value}).errors
    assert error.code == "E046"
    assert says in error.message


def test_a_condition_with_several_literals_lists_them_and_asks_for_a_param() -> None:
    text = BOOK.replace("paid > threshold and funding", "paid > 0.05%/h and abs(notional) > 5_000 USD and funding")
    text = text.replace("  threshold: {default: 0.05%/h, min: 0.01%/h, max: 1%/h, doc: what an hour may cost}\n", "")
    text = text.replace("0.4 * threshold", "0.02%/h").replace(" than {threshold}", "")
    (error,) = overridden(text, "spike.yaml", {"trigger.when.threshold": "1%/h"}).errors
    assert "trigger.when compares with 2 literals (0.05%/h, 5_000 USD); declare which one is meant:" in error.message


def test_mistakes_of_values_come_all_at_once_and_stand_where_the_file_has_them() -> None:
    values = {"trigger.for": "ten minutes", "steps.shrink.shrink_position.max_slippage": "500000bps", "limits.per_run": "5%"}
    found = {error.where: error for error in overridden(BOOK, "spike.yaml", values).errors}
    lines = BOOK.splitlines()
    for where, literal in (("trigger.for", "hold"), ("steps[0].shrink_position.max_slippage", "15bps"), ("limits.per_run", "per_run}")):
        error = found[where]
        assert lines[error.line - 1][error.column - 1 :].startswith(literal)
        assert f"(set: {where.replace('[0]', '.shrink')}=" in error.message
    assert overridden(BOOK, "x", {"a": "1", "b": "2", "trigger.for": "1m"}).errors[1].message.startswith("cannot set b")


def test_a_mistake_behind_a_longer_value_is_shown_at_its_own_place() -> None:
    text = BOOK.replace("trigger:\n  when: paid > threshold and funding_rate > quantile(funding_rate, rank, lookback)\n  for: hold",
                        "trigger:\n  when: paid > 0.05%/h and nonsense\n  for: hold")  # fmt: skip
    (error,) = [e for e in overridden(text, "x", {"trigger.when.threshold": "0.0500000001%/h"}).errors if e.code == "E011"]
    line = text.splitlines()[error.line - 1]
    assert line[error.column - 1 :].startswith("nonsense")
    assert error.source_line == line
