"""The body that each kind of receiver takes (floor 6): pure functions from a message to JSON, within the receiver's limits.

What a text says comes from venues and runbooks, so it is escaped where a receiver reads markup: nobody is pinged and no link appears
that is not ours. Keys of receivers (a routing key, a chat) are put in here, at the try, and are never kept.

    body = render_for("slack", message, Receiver(name="desk"))
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, assert_never

from daemon.edges.notice import GROUP, Message, Notice, Told, tell
from daemon.units import iso

Format = Literal["reefd", "alertmanager", "slack", "discord", "telegram", "pagerduty", "apprise"]
Rendered = Literal["alertmanager", "slack", "discord", "telegram", "pagerduty"]

CHAT: frozenset[str] = frozenset({"slack", "discord", "telegram", "apprise"})  # read by people: grouped by default
# docs.slack.dev/reference/block-kit/blocks/section-block: the text of a section has at most 3,000 characters.
SLACK_SECTION_MAX = 3_000
# docs.slack.dev, chat.postMessage: text over 4,000 characters is advised against; the headline alone stands there.
# discord.com/developers/docs/resources/webhook#execute-webhook: content has at most 2,000 characters.
DISCORD_CONTENT_MAX = 2_000
DISCORD_SUPPRESS_EMBEDS = 1 << 2  # a message flag of the same page: no preview of links
# core.telegram.org/bots/api#sendmessage: 1 to 4,096 characters after entities are parsed; counted here in UTF-16 units, as clients do.
TELEGRAM_TEXT_MAX = 4_096
# developer.pagerduty.com/docs/events-api-v2-overview: dedup_key 255 and summary 1,024 characters, 512 KB in all.
PAGERDUTY_KEY_MAX = 255
PAGERDUTY_SUMMARY_MAX = 1_024
APPRISE_ROOM = 1_500  # characters: what the narrowest of its usual services takes without a cut of its own

_NOT_YET = "0001-01-01T00:00:00Z"  # Alertmanager's `endsAt` of what still fires: the zero time of Go
_JOINER = "\u2060"  # invisible, breaks what a client would turn into a link or a mention


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """Who gets it: the endpoint's name, its keys, and the public address of the operator's surface for links (may be empty)."""

    name: str
    link_base: str = ""
    chat_id: str = ""
    routing_key: str = ""


def takes(format: Format, event: str) -> bool:
    """Whether a receiver of this format hears of an event at all.

    PagerDuty does not of `acted`: a trigger event that comes after the episode's resolve would open the incident again.
    """
    return not (format == "pagerduty" and event == "acted")


def render_for(format: Rendered, message: Message, receiver: Receiver) -> str:
    """The JSON body for a receiver; the same arguments give the same bytes."""
    match format:
        case "alertmanager":
            body = alertmanager(message, receiver)
        case "slack":
            body = slack(message, receiver)
        case "discord":
            body = discord(message, receiver)
        case "telegram":
            body = telegram(message, receiver)
        case "pagerduty":
            body = pagerduty(message, receiver)
        case unknown:
            assert_never(unknown)
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


# --- machines ---------------------------------------------------------------------------------------------------------


def alertmanager(message: Message, receiver: Receiver) -> dict[str, Any]:
    """Version 4 of Alertmanager's webhook: prometheus.io/docs/alerting/latest/configuration/#webhook_config.

    One alert a notice; an episode keeps its labels, so its `cleared` resolves its `fired` (same fingerprint, `startsAt` the firing).
    """
    # Of what is said of one alert within a group, the latest counts, as in Alertmanager's own.
    by_fingerprint = {alert["fingerprint"]: alert for alert in (_alert(notice, receiver) for notice in message.notices)}
    alerts = list(by_fingerprint.values()) or [_alert_of_payload(message)]
    labels: list[Mapping[str, str]] = [alert["labels"] for alert in alerts]
    annotations: list[Mapping[str, str]] = [alert["annotations"] for alert in alerts]
    common = _common(labels)
    grouped = {key: common[key] for key in ("alertname",) if key in common}
    return {
        "version": "4",
        "groupKey": "{}:{" + ", ".join(f'{key}="{value}"' for key, value in grouped.items()) + "}",
        "truncatedAlerts": 0,
        "status": "resolved" if all(alert["status"] == "resolved" for alert in alerts) else "firing",
        "receiver": receiver.name,
        "groupLabels": grouped,
        "commonLabels": common,
        "commonAnnotations": _common(annotations),
        "externalURL": receiver.link_base,
        "alerts": alerts,
    }


def _alert(notice: Notice, receiver: Receiver) -> dict[str, Any]:
    labels = {"alertname": notice.runbook or "reefd", "house": notice.house, "severity": notice.severity}
    if notice.entity:
        labels |= {"entity": notice.entity, "instance": notice.entity}
    if notice.event not in ("fired", "acted", "cleared"):
        labels["event"] = notice.event  # an alert of its own: it is not over when the episode is
    told = tell(_alone(notice), link_base=receiver.link_base)
    annotations = {"summary": told.headline, "description": "\n".join([*told.lines, *_plain_commands(told)]), "anchor": notice.anchor}
    return {
        "status": "resolved" if notice.resolved else "firing",
        "labels": labels,
        "annotations": annotations,
        "startsAt": iso(notice.fired_at),
        "endsAt": iso(notice.at) if notice.resolved else _NOT_YET,
        "generatorURL": told.link,
        "fingerprint": fingerprint(labels),
    }


def _alert_of_payload(message: Message) -> dict[str, Any]:
    labels = {"alertname": "reefd_message", "house": message.house, "severity": message.severity}
    told = tell(message)
    return {
        "status": "firing",
        "labels": labels,
        "annotations": {"summary": told.headline, "description": "\n".join(told.lines)},
        "startsAt": iso(message.at),
        "endsAt": _NOT_YET,
        "generatorURL": "",
        "fingerprint": fingerprint(labels),
    }


def fingerprint(labels: Mapping[str, str]) -> str:
    """The fingerprint that Prometheus gives a set of labels: 64-bit FNV-1a over the sorted names and values, each ended by 0xff.

    github.com/prometheus/common, model/signature.go, `labelSetToFingerprint`.
    """
    value = 14695981039346656037
    for name in sorted(labels):
        for byte in (*name.encode(), 255, *labels[name].encode(), 255):
            value = ((value ^ byte) * 1099511628211) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def _common(of_alerts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {key: value for key, value in of_alerts[0].items() if all(other.get(key) == value for other in of_alerts)}


def pagerduty(message: Message, receiver: Receiver) -> dict[str, Any]:
    """An event of PagerDuty's Events API v2: developer.pagerduty.com/docs/events-api-v2-overview.

    The dedup key is the episode's id: what one firing leads to is one incident, and its `cleared` resolves it.
    """
    told = tell(message, link_base=receiver.link_base, room=20_000)
    first = message.notices[0] if len(message.notices) == 1 else None
    key = first.episode if first is not None else message.id or message.kind
    if len(key) > PAGERDUTY_KEY_MAX:
        key = f"{key[:180]}#{hashlib.sha256(key.encode()).hexdigest()}"
    body: dict[str, Any] = {
        "routing_key": receiver.routing_key,
        "event_action": "resolve" if message.resolved else "trigger",
        "dedup_key": key,
        "client": "reefd",
    }
    if receiver.link_base:
        body["client_url"] = receiver.link_base
        body["links"] = [{"href": told.link, "text": "open in reefd"}]
    severity = message.severity if message.severity in ("critical", "warning", "info") else "error"
    return body | {
        "payload": {
            "summary": told.headline[:PAGERDUTY_SUMMARY_MAX],
            "source": (first.entity if first is not None else "") or message.house,
            "severity": severity,
            "timestamp": iso(message.at),
            "component": first.entity if first is not None else message.group,
            "group": first.runbook if first is not None else message.group,
            "class": first.event if first is not None else message.kind,
            "custom_details": {"lines": [*told.lines, *_plain_commands(told)], "anchor": message.anchor, "id": message.id},
        }
    }


# --- people -----------------------------------------------------------------------------------------------------------


def slack(message: Message, receiver: Receiver) -> dict[str, Any]:
    """A message for Slack's incoming webhooks: docs.slack.dev/messaging/sending-messages-using-incoming-webhooks, blocks of Block Kit.

    `&`, `<` and `>` are escaped as docs.slack.dev/messaging/formatting-message-text asks for, so no `<!channel>` and no `<link>` forms;
    `verbatim` keeps Slack from making links of names and addresses.
    """
    told, text = _within(
        message, receiver, lambda found: "\n".join(slack_escaped(line) for line in found.lines), SLACK_SECTION_MAX, (2_800, 1_400, 560)
    )
    blocks = [_section(f"*{slack_escaped(told.headline)}*")]
    if text:
        blocks.append(_section(text))
    under = [f"{label}: `{slack_escaped(command.replace('`', ''))}`" for label, command in told.commands]
    if told.link:
        under.append(f"<{slack_escaped(told.link).replace('|', '%7C')}|open in reefd>")
    if under:
        blocks.append(_section("\n".join(under)))
    if told.footer:
        blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": slack_escaped(told.footer), "verbatim": True}]})
    return {"text": slack_escaped(told.headline), "blocks": blocks, "unfurl_links": False, "unfurl_media": False}


def slack_escaped(text: str) -> str:
    """The text with the three characters that Slack reads as markup written as entities."""
    return html.escape(text, quote=False)


def _section(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "mrkdwn", "text": text, "verbatim": True}}


def discord(message: Message, receiver: Receiver) -> dict[str, Any]:
    """A message for a Discord webhook: discord.com/developers/docs/resources/webhook#execute-webhook.

    `allowed_mentions: {parse: []}` pings nobody whatever the text holds; markup and addresses are escaped with backslashes.
    """

    def written(told: Told) -> str:
        lines = [f"**{discord_escaped(told.headline)}**", *(discord_escaped(line) for line in told.lines)]
        lines += [f"{label}: `{command.replace('`', '')}`" for label, command in told.commands]
        lines += [f"[open in reefd](<{told.link}>)"] if told.link else []
        lines += [f"-# {discord_escaped(told.footer)}"] if told.footer else []
        return "\n".join(lines)

    _, content = _within(message, receiver, written, DISCORD_CONTENT_MAX, (1_800, 1_300, 800))
    return {"content": content, "allowed_mentions": {"parse": []}, "flags": DISCORD_SUPPRESS_EMBEDS}


def discord_escaped(text: str) -> str:
    """The text with everything that Discord's markdown reads escaped; `:` too, so that no address becomes a link and no name an emoji."""
    return re.sub(r"^(-|\d+\.)", r"\\\1", re.sub(r"([\\*_~`|<>#\[\]:@])", r"\\\1", text))


def telegram(message: Message, receiver: Receiver) -> dict[str, Any]:
    """A message for a Telegram bot: core.telegram.org/bots/api#sendmessage, in its HTML style.

    Names, addresses and commands would become links by themselves: an invisible joiner in them keeps them text.
    """

    def written(told: Told) -> str:
        lines = [f"<b>{telegram_escaped(told.headline)}</b>", *(telegram_escaped(line) for line in told.lines)]
        lines += [f"{label}: <code>{html.escape(command)}</code>" for label, command in told.commands]
        lines += [f'<a href="{html.escape(told.link)}">open in reefd</a>'] if told.link else []
        lines += [telegram_escaped(told.footer)] if told.footer else []
        return "\n".join(lines)

    _, text = _within(message, receiver, written, TELEGRAM_TEXT_MAX, (3_400, 1_800, 800))
    return {
        "chat_id": receiver.chat_id,
        "text": text,
        "parse_mode": "HTML",
        "link_preview_options": {"is_disabled": True},
        "disable_notification": message.severity == "info",
    }


def telegram_escaped(text: str) -> str:
    """The text as HTML in which Telegram finds neither mention nor address, hashtag or command."""
    broken = re.sub(r"([@#$]|://|(?<=\w)\.(?=[^\W\d_])|(?<![\w/])/(?=[^\W\d_]))", rf"\1{_JOINER}", text)
    return html.escape(broken, quote=False)


def plain(message: Message, receiver: Receiver) -> tuple[str, str]:
    """Title and text for any service (apprise, which escapes for each); an invisible joiner keeps an `@` from being anybody's name."""
    told = tell(message, link_base=receiver.link_base, room=APPRISE_ROOM)
    lines = [line.replace("@", f"@{_JOINER}") for line in told.lines]
    lines += [*_plain_commands(told), *([told.link] if told.link else []), *([told.footer] if told.footer else [])]
    return told.headline.replace("@", f"@{_JOINER}"), "\n".join(lines)


def _plain_commands(told: Told) -> list[str]:
    return [f"{label}: {command}" for label, command in told.commands]


def _within(message: Message, receiver: Receiver, written: Callable[[Told], str], most: int, rooms: Sequence[int]) -> tuple[Told, str]:
    """The message told in as much room as keeps what is written of it, escapes included, within `most` UTF-16 units."""
    for room in rooms:
        told = tell(message, link_base=receiver.link_base, room=room)
        text = written(told)
        if _utf16(text) <= most:
            return told, text
    # Reached only by a text that is nearly all markup: the headline and what can be done about it are what counts.
    told = replace(told, lines=())
    return told, written(told)


def _utf16(text: str) -> int:
    return len(text.encode("utf-16-le")) // 2


def _alone(notice: Notice) -> Message:
    return Message(
        id=notice.id,
        kind=notice.kind if notice.kind != GROUP else "notice",
        severity=notice.severity,
        at=notice.at,
        seq=notice.seq,
        house=notice.house,
        anchor=notice.anchor,
        notices=(notice,),
    )
