"""Formats of receivers: the documented shapes, sizes within each one's limits, and texts that ping nobody and hold no link."""

from __future__ import annotations

import html
import json
import re
from typing import Any

import pytest
from alert_notices import ANCHOR, approval, notice
from hypothesis import given
from hypothesis import strategies as st
from service_world import ORIGIN_NS

from daemon.edges.formats import Receiver, Rendered, fingerprint, plain, render_for, takes
from daemon.edges.notice import GROUP, group_body, read_message, tell, undelivered_body
from daemon.edges.webhook import render
from daemon.units import NS, iso

HOST = "https://reefd.example.com"
DESK = Receiver(name="desk", link_base=HOST, chat_id="-1001", routing_key="k" * 32)
CHATS: tuple[Rendered, ...] = ("slack", "discord", "telegram")
RUN = f"funding-spike/dydx:BTC-USD/{ORIGIN_NS}/1"


def rendered(format: Rendered, body: str, receiver: Receiver = DESK) -> dict[str, Any]:
    found = json.loads(render_for(format, read_message(body), receiver))
    assert isinstance(found, dict)
    return found


def shown(format: Rendered, body: str, receiver: Receiver = DESK) -> str:
    """Everything of a chat message that a person reads, as it is sent."""
    found = rendered(format, body, receiver)
    match format:
        case "slack":
            texts = [block["text"]["text"] if block["type"] == "section" else block["elements"][0]["text"] for block in found["blocks"]]
            return "\n".join(texts)
        case "discord":
            return str(found["content"])
        case _:
            return str(found["text"])


def unescaped(format: Rendered, text: str) -> str:
    """What the chat shows of it."""
    if format == "discord":
        return re.sub(r"\\([^0-9A-Za-z\s])", r"\1", text)
    return html.unescape(text).replace("\u2060", "")


def member(number: int, severity: str = "warning") -> str:
    return notice(entity=f"dydx:M{number}-USD", severity=severity, seq=number, at=ORIGIN_NS + number * NS)


def group(size: int, critical: frozenset[int] = frozenset()) -> str:
    bodies = [member(n, "critical" if n in critical else "warning") for n in range(size)]
    return group_body(bodies, id_="x.group", group="runbook=funding-spike", at=ORIGIN_NS + size * NS, anchor=ANCHOR)


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", CHATS)
def test_chat_says_in_its_first_line_how_bad_what_and_on_what(format: Rendered) -> None:
    first = unescaped(format, shown(format, notice(severity="critical"))).splitlines()[0]
    assert first.strip("*").removeprefix("<b>").removesuffix("</b>") == "CRITICAL Funding spike on dydx:BTC-USD fired"


@pytest.mark.parametrize("format", CHATS)
def test_chat_says_why_what_was_done_and_where_to_look(format: Rendered) -> None:
    text = unescaped(format, shown(format, notice("acted", said="done: shrink", run="1", did=("shrink (shrink_position) done",))))
    for said in ("result: shrink", "seen: funding_rate 0.08%/h (3s old)", "done: shrink (shrink_position) done", f"run: {RUN}", ANCHOR):
        assert said in text
    assert f"{HOST}/runs/funding-spike%2Fdydx%3ABTC-USD%2F{ORIGIN_NS}%2F1" in text


@pytest.mark.parametrize("format", CHATS)
def test_approval_is_asked_for_with_its_command_its_deadline_and_its_people(format: Rendered) -> None:
    text = unescaped(format, shown(format, approval()))
    assert "asks for approval" in text.splitlines()[0]
    assert "shrink_position of 12,000 USD" in text
    assert f"answer by: {iso(ORIGIN_NS + 600 * NS)} (within 10m)" in text
    assert "from: ana, ben" in text
    assert re.search(rf"yes: (`|<code>)reefd approve {re.escape(RUN)}(`|</code>)", text)
    assert re.search(rf"no: (`|<code>)reefd deny {re.escape(RUN)}(`|</code>)", text)


def test_words_without_a_public_address_have_no_link() -> None:
    told = tell(read_message(approval()))
    assert told.link == ""
    assert "http" not in shown("slack", approval(), Receiver(name="desk"))


def test_group_says_how_many_the_worst_first_names_some_and_counts_the_rest() -> None:
    told = tell(read_message(group(200, frozenset({77}))))
    assert told.headline == "CRITICAL Funding spike on 200 entities: 200 fired"
    assert told.lines[0] == "• critical dydx:M77-USD: funding_rate > 0.05%/h (funding_rate 0.08%/h (3s old))"
    assert told.lines[1].startswith("• warning dydx:M0-USD")
    assert told.lines[-1] == "and 190 more"
    assert told.commands == (("all of them", "reefd status"),)


@pytest.mark.parametrize("room", [400, 700, 1_000, 3_000])
def test_group_that_is_cut_short_still_counts_everyone(room: int) -> None:
    told = tell(read_message(group(200)), room=room)
    named = sum(1 for line in told.lines if line.startswith("• "))
    more = re.fullmatch(r"and (\d+) more", told.lines[-1])
    assert more
    assert named + int(more[1]) == 200


def test_group_of_one_entity_says_what_happened_last() -> None:
    bodies = [notice(seq=1), notice("blocked", said="over limits.runs: 2 of 2 runs used", seq=2, at=ORIGIN_NS + NS)]
    told = tell(read_message(group_body(bodies, id_="g", group="runbook=funding-spike", at=ORIGIN_NS + NS, anchor=ANCHOR)))
    assert told.headline == "WARNING Funding spike on dydx:BTC-USD: 1 fired, 1 blocked"
    assert "then blocked: nothing was done: over limits.runs: 2 of 2 runs used" in told.lines[0]


def test_second_channel_says_where_the_first_one_failed() -> None:
    for body in (notice(severity="critical"), group(3)):
        told = tell(read_message(undelivered_body(body, "desk did not take it: HTTP 503")))
        assert told.lines[0] == "second channel: desk did not take it: HTTP 503"


def test_group_holds_every_notice_whole() -> None:
    message = read_message(group(200))
    assert (message.kind, message.severity, message.seq, len(message.notices)) == (GROUP, "warning", 199, 200)
    assert [n.id for n in message.notices] == [json.loads(member(n))["data"]["action_id"] for n in range(200)]


@given(st.text() | st.dictionaries(st.text(max_size=5), st.none() | st.integers() | st.text(max_size=5)).map(json.dumps))
def test_body_that_is_no_notice_is_told_as_it_is(body: str) -> None:
    message = read_message(body)
    assert message.notices == ()
    for format in ("alertmanager", "slack", "discord", "telegram", "pagerduty"):
        render_for(format, message, DESK)  # type: ignore[arg-type]


def test_notice_of_a_step_is_about_the_entity_of_its_run() -> None:
    run_id = f"{RUN}.tell.0.1"
    content = {"action_id": run_id, "run_id": RUN, "runbook": "funding-spike", "event": "step", "severity": "info", "detail": {}}
    body = render("notice.step", {**content, "title": "Funding spike", "text": "price is 101 USD"}, at=ORIGIN_NS, seq=0)
    (said,) = read_message(body).notices
    assert (said.entity, said.title, said.said) == ("dydx:BTC-USD", "Funding spike", "price is 101 USD")
    told = tell(read_message(body))
    assert told.headline == "INFO Funding spike on dydx:BTC-USD says"
    assert told.lines == ("price is 101 USD", f"run: {RUN}")
    group_of_two = group_body([notice(), body], id_="g", group="runbook=funding-spike", at=ORIGIN_NS, anchor=ANCHOR)
    assert tell(read_message(group_of_two)).headline == "WARNING Funding spike on dydx:BTC-USD: 1 fired, 1 messages"


def test_payload_of_an_executor_is_shown() -> None:
    body = render("action.webhook", {"action_id": "a", "payload": {"amount": 5}}, at=ORIGIN_NS, seq=0)
    assert '"amount": 5' in unescaped("discord", shown("discord", body))


# --- markup -----------------------------------------------------------------------------------------------------------

EVIL = (
    "@everyone <!channel> <@U123> <https://evil.example|click> [click](https://evil.example) https://evil.example evil.example *b* _i_ "
    "`c` ~s~ ||x|| # h > q </b><a href='https://evil.example'>x</a> #tag $USD /start &amp;"
)


def test_slack_reads_no_markup_in_a_text() -> None:
    found = rendered("slack", notice(said=EVIL, title=EVIL))
    texts = [found["text"], shown("slack", notice(said=EVIL, title=EVIL))]
    for text in texts:
        assert set(re.findall(r"<[^>]*>", text)) <= {f"<{HOST}|open in reefd>"}
    assert all(block["text"]["verbatim"] for block in found["blocks"] if block["type"] == "section")
    assert (found["unfurl_links"], found["unfurl_media"]) == (False, False)


def test_discord_pings_nobody_and_makes_no_link_of_a_text() -> None:
    found = rendered("discord", notice(said=EVIL, title=EVIL))
    assert found["allowed_mentions"] == {"parse": []}
    assert found["flags"] == 4
    ours = found["content"].replace(f"[open in reefd](<{HOST}>)", "")
    assert re.findall(r"https?://", ours) == []
    assert re.findall(r"(?<!\\)[\[\]<>@`|]", ours) == []


def test_telegram_finds_no_entity_in_a_text() -> None:
    text = rendered("telegram", notice(said=EVIL, title=EVIL))["text"]
    assert set(re.findall(r"<[^>]*>", text)) == {"<b>", "</b>", f'<a href="{HOST}">', "</a>"}
    visible = re.sub(r"<a .*?</a>", "", text)
    assert re.findall(r"[@#$]\w|://\w|\w\.[A-Za-z]|\s/[A-Za-z]", html.unescape(visible)) == []


def test_apprise_gets_plain_text_without_a_mention() -> None:
    title, text = plain(read_message(notice(said=EVIL)), DESK)
    assert title.startswith("WARNING Funding spike")
    assert "@everyone" not in text


# --- limits -----------------------------------------------------------------------------------------------------------

texts = st.text(alphabet=st.sampled_from("ab c&<>*_`|\\@#:[].~\n😀·…$%/") | st.characters(exclude_categories=["Cs"]), max_size=6_000)


@given(title=texts, said=texts, why=st.lists(texts, max_size=3), entity=texts, event=st.sampled_from(["fired", "approval", "page"]))
def test_messages_keep_the_limits_of_their_receivers(title: str, said: str, why: list[str], entity: str, event: str) -> None:
    body = notice(event, title=title, said=said, why=tuple(why), entity=entity[:100] or "e", run="1")
    slack = rendered("slack", body)
    for block in slack["blocks"]:
        length = len(block["text"]["text"]) if block["type"] == "section" else len(block["elements"][0]["text"])
        assert 0 < length <= 3_000
    assert len(slack["blocks"]) <= 50
    assert len(slack["text"]) <= 4_000
    assert 0 < len(rendered("discord", body)["content"].encode("utf-16-le")) // 2 <= 2_000
    assert 0 < len(rendered("telegram", body)["text"].encode("utf-16-le")) // 2 <= 4_096
    event_of = rendered("pagerduty", body)
    assert len(event_of["dedup_key"]) <= 255
    assert len(event_of["payload"]["summary"]) <= 1_024
    assert len(json.dumps(event_of)) < 512_000


@pytest.mark.parametrize("format", CHATS)
@pytest.mark.parametrize("said", ["&" * 5_000, "*" * 5_000, "\\" * 5_000, "😀" * 5_000, "x" * 5_000])
def test_long_text_is_cut_and_what_can_be_done_stays(format: Rendered, said: str) -> None:
    text = unescaped(format, shown(format, approval(said=said, title=said)))
    assert f"reefd approve {RUN}" in text
    assert ANCHOR in text


# --- machines ---------------------------------------------------------------------------------------------------------


def test_alertmanager_body_has_the_form_of_version_4() -> None:
    found = rendered("alertmanager", notice(severity="critical"))
    assert list(found) == [
        "version", "groupKey", "truncatedAlerts", "status", "receiver", "groupLabels", "commonLabels", "commonAnnotations", "externalURL",
        "alerts",
    ]  # fmt: skip
    assert (found["version"], found["status"], found["receiver"], found["truncatedAlerts"]) == ("4", "firing", "desk", 0)
    assert found["groupKey"] == '{}:{alertname="funding-spike"}'
    (alert,) = found["alerts"]
    assert set(alert) == {"status", "labels", "annotations", "startsAt", "endsAt", "generatorURL", "fingerprint"}
    assert alert["labels"] == {
        "alertname": "funding-spike", "entity": "dydx:BTC-USD", "house": "reefd", "instance": "dydx:BTC-USD", "severity": "critical",
    }  # fmt: skip
    assert alert["startsAt"] == iso(ORIGIN_NS)
    assert alert["endsAt"] == "0001-01-01T00:00:00Z"
    assert alert["annotations"]["summary"] == "CRITICAL Funding spike on dydx:BTC-USD fired"
    assert alert["annotations"]["anchor"] == ANCHOR


def test_alertmanager_resolves_the_very_alert_that_fired() -> None:
    fired = rendered("alertmanager", notice())["alerts"][0]
    over = rendered("alertmanager", notice("cleared", said="cleared", at=ORIGIN_NS + 60 * NS))
    assert over["status"] == over["alerts"][0]["status"] == "resolved"
    assert over["alerts"][0]["fingerprint"] == fired["fingerprint"]
    assert (over["alerts"][0]["startsAt"], over["alerts"][0]["endsAt"]) == (fired["startsAt"], iso(ORIGIN_NS + 60 * NS))
    page = rendered("alertmanager", notice("page", said="run failed: timeout"))["alerts"][0]
    assert page["labels"]["event"] == "page"
    assert page["fingerprint"] != fired["fingerprint"]


def test_alertmanager_group_has_an_alert_a_notice() -> None:
    found = rendered("alertmanager", group(200))
    assert len(found["alerts"]) == 200
    assert found["commonLabels"] == {"alertname": "funding-spike", "house": "reefd", "severity": "warning"}


def test_alertmanager_group_says_of_each_alert_the_latest() -> None:
    bodies = [notice(), notice("cleared", said="cleared", at=ORIGIN_NS + NS, seq=2)]
    found = rendered("alertmanager", group_body(bodies, id_="g", group="runbook=funding-spike", at=ORIGIN_NS + NS, anchor=ANCHOR))
    assert (found["status"], [alert["status"] for alert in found["alerts"]]) == ("resolved", ["resolved"])


def test_fingerprint_is_the_one_that_alertmanager_gives() -> None:
    # What Alertmanager 0.25 put into the webhook of an alert with these labels.
    labels = {
        "alertname": "ProbeFailure", "instance": "https://server.example.org", "job": "http_checks", "monitor": "master",
        "severity": "critical",
    }  # fmt: skip
    assert fingerprint(labels) == "fe986f5dcb3e6510"


def test_pagerduty_opens_one_incident_an_episode_and_resolves_it() -> None:
    fired = rendered("pagerduty", notice(severity="critical"))
    failed = rendered("pagerduty", notice("failed", said="shrink: timeout", run="1"))
    over = rendered("pagerduty", notice("cleared", said="cleared", at=ORIGIN_NS + NS))
    key = f"funding-spike/dydx:BTC-USD/{ORIGIN_NS}"
    assert [found["dedup_key"] for found in (fired, failed, over)] == [key] * 3
    assert [found["event_action"] for found in (fired, failed, over)] == ["trigger", "trigger", "resolve"]
    assert fired["routing_key"] == "k" * 32
    assert fired["payload"]["severity"] == "critical"
    assert fired["payload"]["source"] == "dydx:BTC-USD"
    assert set(fired) == {"routing_key", "event_action", "dedup_key", "client", "client_url", "links", "payload"}
    assert set(fired["payload"]) == {"summary", "source", "severity", "timestamp", "component", "group", "class", "custom_details"}
    assert not takes("pagerduty", "acted")
    assert takes("slack", "acted")


def test_pagerduty_key_of_a_long_name_stays_apart_from_its_neighbours() -> None:
    keys = {rendered("pagerduty", notice(entity="x" * 300 + str(n)))["dedup_key"] for n in range(3)}
    assert len(keys) == 3
    assert all(len(key) <= 255 for key in keys)


def test_telegram_is_silent_about_what_is_only_informative() -> None:
    assert rendered("telegram", notice(severity="info"))["disable_notification"] is True
    found = rendered("telegram", notice(severity="critical"))
    assert found["disable_notification"] is False
    assert (found["chat_id"], found["parse_mode"], found["link_preview_options"]) == ("-1001", "HTML", {"is_disabled": True})


def test_no_key_of_a_receiver_is_in_a_message_that_does_not_need_it() -> None:
    for format in ("alertmanager", "slack", "discord", "telegram"):
        assert "k" * 32 not in render_for(format, read_message(notice()), DESK)  # type: ignore[arg-type]
    assert "-1001" not in render_for("pagerduty", read_message(notice()), DESK)
