"""Webhook settings: what goes with which format, where keys come from, and complaints that say what to write and show no key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from daemon.edges.webhook import Grouping
from daemon.errors import SettingsError
from daemon.settings import parse_settings
from daemon.units import HOUR_NS, MINUTE_NS, NS

ROOT = Path(__file__).resolve().parent.parent
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
KEYS = {
    "DESK_SLACK_URL": "https://hooks.slack.com/services/T0/B0/key-of-slack",
    "PAGERDUTY_KEY": "key-of-pagerduty-0123456789abcdef",
    "BOT_TOKEN": "123456:key-of-the-bot",
    "ARCHIVE_SECRET": SECRET,
}


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def complaints(webhooks: str) -> str:
    with pytest.raises(SettingsError) as caught:
        parse_settings(f"webhooks:\n  desk: {webhooks}\n", "reefd.yaml").endpoints()
    return str(caught.value)


def test_shipped_example_of_endpoints_is_one(keys: None, tmp_path: Path) -> None:
    text = (ROOT / "config/reefd.yaml").read_text(encoding="utf-8")
    local = tmp_path / "local"
    local.write_text(SECRET)
    lines = re.search(r"^# webhooks:.*?(?=^# mqtt:)", text, re.S | re.M)
    assert lines
    shown = re.sub(r"^# ", "", lines[0], flags=re.M).replace("/run/secrets/local", str(local))
    endpoints = {endpoint.name: endpoint for endpoint in parse_settings(shown, "reefd.yaml").endpoints()}
    assert {name: endpoint.format for name, endpoint in endpoints.items()} == {
        "desk": "slack", "phone": "pagerduty", "bot": "telegram", "archive": "reefd", "local": "reefd",
    }  # fmt: skip
    assert endpoints["desk"].url == KEYS["DESK_SLACK_URL"]
    assert endpoints["desk"].fallback == "phone"
    assert endpoints["desk"].grouping == Grouping()
    assert (endpoints["phone"].routing_key, endpoints["phone"].grouping) == (KEYS["PAGERDUTY_KEY"], None)
    assert endpoints["phone"].url == "https://events.pagerduty.com/v2/enqueue"
    assert endpoints["bot"].url == "https://api.telegram.org/bot123456:key-of-the-bot/sendMessage"
    assert endpoints["bot"].chat_id == "-1001234567890"
    assert endpoints["bot"].grouping == Grouping(by=("venue",), wait_ns=10 * NS, interval_ns=5 * MINUTE_NS, repeat_ns=4 * HOUR_NS)
    assert endpoints["archive"].secrets == (SECRET,)
    for endpoint in endpoints.values():
        assert "key-of" not in repr(endpoint) + endpoint.address


def test_example_of_the_page_on_alerts_is_one(keys: None) -> None:
    page = (ROOT / "docs/alerts.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.S)
    assert len(parse_settings(block, "alerts.md").endpoints()) == 3


@pytest.mark.parametrize(
    ("webhook", "grouped"),
    [
        ("{url: https://x.example, secret: env:ARCHIVE_SECRET}", False),
        ("{url: https://x.example, format: alertmanager}", False),
        ("{url: https://x.example, format: alertmanager, grouped: true}", True),
        ("{url: https://x.example, format: alertmanager, grouping: {by: []}}", True),
        ("{url: env:DESK_SLACK_URL, format: slack}", True),
        ("{url: env:DESK_SLACK_URL, format: slack, grouped: false}", False),
        ("{url: env:DESK_SLACK_URL, format: discord}", True),
        ("{url: env:DESK_SLACK_URL, format: apprise}", True),
    ],
)
def test_what_people_read_is_grouped_unless_it_is_said_otherwise(webhook: str, grouped: bool, keys: None) -> None:
    (endpoint,) = parse_settings(f"webhooks: {{desk: {webhook}}}\n", "reefd.yaml").endpoints()
    assert (endpoint.grouping is not None) is grouped


@pytest.mark.parametrize(
    ("webhook", "said"),
    [
        ("{format: slack}", "url is missing; write for example url: https://hooks.example.com/reefd, or env:NAME where it holds a token"),
        ("{url: https://x.example}", "secret is missing; messages of format reefd are signed: write env:NAME or file:PATH"),
        ("{format: telegram, chat_id: '1'}", "token is missing; write the bot's as env:NAME or file:PATH"),
        ("{format: telegram, token: env:BOT_TOKEN}", "chat_id is missing; write the chat's number"),
        ("{format: pagerduty}", "routing_key is missing; write the integration's as env:NAME or file:PATH"),
        ("{format: pagerduty, routing_key: env:PAGERDUTY_KEY, grouped: true}", "PagerDuty groups by itself"),
        ("{format: slack, url: https://x.example, routing_key: env:PAGERDUTY_KEY}", "belongs to format: pagerduty, found format: slack"),
        ("{format: slack, url: http://x.example}", "http:// is not encrypted"),
        ("{format: slack, url: ftp://x.example}", "write a web address"),
        ("{format: apprise, url: https://x.example}", "an address of apprise holds the service's keys; write env:NAME or file:PATH"),
        ("{format: slak, url: https://x.example}", "found 'slak'; write reefd, alertmanager, slack"),
        ("{format: slack, url: https://x.example, previous_secret: env:A}", "a previous secret signs beside a current one"),
        ("{format: slack, url: https://x.example, grouping: {by: [coin]}}", "found 'coin'; write runbook, entity, venue"),
        ("{format: slack, url: https://x.example, grouping: {wait: 0s}}", "found 0s; write a duration from 1s to 10m"),
        ("{format: slack, url: https://x.example, grouped: false, grouping: {wait: 5s}}", "grouped: false switches it off"),
        ("{format: slack, url: https://x.example, fallback: desk}", "there is no other webhook 'desk'; none is configured"),
        ("{format: slack, url: https://x.example, ca_file: /nowhere/ca.pem}", "ca_file: /nowhere/ca.pem cannot be used: No such file"),
        ("{format: slack, url: env:NOT_SET}", "webhooks.desk.url: the variable NOT_SET is not set"),
        ("{format: slack, url: env:BOT_TOKEN}", "what env:BOT_TOKEN holds is no web address; it starts with https://"),
    ],
)
def test_mistake_is_said_with_what_to_write(webhook: str, said: str, keys: None) -> None:
    assert said in complaints(webhook)


@pytest.mark.parametrize("key", ["token", "routing_key", "secret"])
def test_key_written_into_the_file_is_refused_and_never_shown(key: str) -> None:
    for value in ("123456:key-of-the-bot", "[123456:key-of-the-bot]"):
        said = complaints(f"{{format: telegram, chat_id: '1', {key}: '{value}'}}")
        assert "env:NAME or file:PATH" in said
        assert "key-of-the-bot" not in said


def test_address_with_a_token_may_be_kept_in_a_file(tmp_path: Path) -> None:
    kept = tmp_path / "url"
    kept.write_text(KEYS["DESK_SLACK_URL"] + "\n")
    (endpoint,) = parse_settings(f"webhooks: {{desk: {{format: slack, url: 'file:{kept}'}}}}\n", "reefd.yaml").endpoints()
    assert endpoint.url == KEYS["DESK_SLACK_URL"]
    kept.write_text("http://inside.example/x")
    assert "http:// is not encrypted" in complaints(f"{{format: slack, url: 'file:{kept}'}}")
