"""What MQTT tells of the daemon (floor 7): retained topics with the whole state each, published on connect, on change and every minute.

    StateTopics().of(now, gates, runbooks) -> {"state": "{...}", "gate/dydx/BTC-USD": "{...}", ...}     # below the prefix
    StateSpeaker(prefix="reefd", snapshot=...)                                                          # a part of a `Link`

A topic expires when it is not said again, a gate within seconds: who tells it runs on the loop that decides, so a gate that nobody
repeats is one that nobody watches. `status` is
`online` only after everything else was said anew, so that nobody takes an answer of the life before for one of this life.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import islice

from daemon.edges.broker import Connection, Outgoing, joined, level
from daemon.service.logging import log
from daemon.service.views import AccountView, GateAnswer, NeedView, Now, RunbookView

STATUS, STATE, GATE, HEAD, RUNS = "status", "state", "gate", "audit/head", "runs"
ONLINE, OFFLINE = b"online", b"offline"
LOOK_S = 1.0  # how often the state is looked at when nobody calls `look`
LOOK_MIN_S = 0.1
AGAIN_S = 60.0  # everything is said again, changed or not
EXPIRY_S = 150  # so that two repetitions may be lost before a topic is forgotten
GATE_AGAIN_S = 5.0  # a gate is said again sooner, with the time at which the desk said so
GATE_EXPIRY_S = 15  # the same, in seconds; a strategy counts an `at` as old as that as closed
LASTING = frozenset({HEAD})  # the anchor of the audit chain is for the day on which this machine is gone
TOGETHER = 4  # messages on their way at once: a notice never waits for more
FIGURES = 4  # digits of a number: a state that changes with every price is no change
NEEDS_MAX = 50


class StateTopics:
    """Makes the topics of a snapshot; it remembers since when each gate has said what it says."""

    def __init__(self) -> None:
        self._gates: dict[str, GateAnswer] = {}

    def of(self, now: Now, gates: Mapping[str, GateAnswer], runbooks: Sequence[RunbookView] = ()) -> Mapping[str, str]:
        """Topic below the prefix -> JSON. `gates` is by market (`dydx:BTC-USD`), that of everything under `""`."""
        topics = {STATE: _json(state(now)), HEAD: now.head}
        self._gates = {market: self._since(market, answer) for market, answer in gates.items()}
        for market, answer in self._gates.items():
            topics[gate_topic(market)] = gate_text(answer)
        for book in runbooks:
            topics[joined(RUNS, level(book.id))] = _json(
                {
                    "runbook": book.id,
                    "stage": book.stage,
                    "paused": book.paused,
                    "instances": book.instances,
                    "runs_24h": book.runs_day,
                    "spent_24h_usd": _figure(book.spent_day_usd),
                    "last_run": book.last_run,
                    "last_status": book.last_status,
                }
            )
        return topics

    def _since(self, market: str, answer: GateAnswer) -> GateAnswer:
        before = self._gates.get(market)
        return before if before is not None and (before.open, before.why) == (answer.open, answer.why) else answer


def gate_topic(market: str) -> str:
    """`gate/dydx/BTC-USD` of `dydx:BTC-USD`; `gate` of everything."""
    venue, _, symbol = market.partition(":")
    return joined(GATE, level(venue), level(symbol)) if symbol else joined(GATE, level(venue)) if venue else GATE


def gate_text(answer: GateAnswer) -> str:
    """The gate's answer as JSON: `{open, why, since}`; `at`, when the desk last said so, is added when it is published."""
    return _json({"open": answer.open, "why": answer.why, "since": answer.at})


def state(now: Now) -> Mapping[str, object]:
    """What a person on call asks first, small enough for a phone's widget."""
    return {
        "house": now.house,
        "build": now.build,
        "line": now.line,
        "since": now.since,
        "why": now.why,
        "halted": now.halted,
        "openings_halted": now.openings_halted,
        "needs": [_need(need) for need in islice(now.needs, NEEDS_MAX)],
        "needs_count": len(now.needs),
        "worst_account": _account(now.accounts[0]) if now.accounts else None,
        "running": [run.run_id for run in now.running],
        "problems": len(now.problems),
    }


def _need(need: NeedView) -> Mapping[str, object]:
    return {
        "kind": need.kind,
        "target": need.target,
        "title": need.title,
        "deadline": need.deadline,
        "plan_digest": need.digest,
        "verbs": list(need.verbs),
    }


def _account(account: AccountView) -> Mapping[str, object]:
    return {
        "id": account.id,
        "margin_ratio": _figure(account.margin_ratio),
        "survivable_move": _figure(account.survivable_move),
        "equity_usd": _figure(account.equity_usd),
        "flat": account.flat,
    }


def _figure(value: float | None) -> float | None:
    """A number in few digits; None for what is unknown, and for infinite, which JSON does not have."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{FIGURES}g}")


def _json(content: Mapping[str, object]) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


class StateSpeaker:
    """Publishes a snapshot's topics."""

    def __init__(self, *, prefix: str, snapshot: Callable[[], Mapping[str, str | bytes]], at: Callable[[], str] = lambda: "") -> None:
        self._prefix = prefix
        self._snapshot = snapshot  # topics below the prefix; empty while nothing is known yet
        self._at = at  # when the snapshot was made, ISO: gates carry it; empty when that is not known
        self._more = asyncio.Event()
        self._said: dict[str, bytes] = {}  # on this connection
        self._refused: set[str] = set()
        self.will = self.status(OFFLINE)

    def look(self) -> None:
        """Something may have changed that should not wait for a second."""
        self._more.set()

    def status(self, word: bytes) -> Outgoing:
        """`online`, which is forgotten when it is not said again, or `offline`, which stays."""
        return Outgoing(topic=joined(self._prefix, STATUS), payload=word, retain=True, expiry_s=EXPIRY_S if word == ONLINE else None)

    async def speak(self, connection: Connection) -> None:
        """Everything at once, `online`, then what changes, the gates again every 5 s, and everything again each minute."""
        self._said.clear()
        time_s = asyncio.get_running_loop().time
        online, all_said_at, gates_said_at = False, time_s() - AGAIN_S, time_s() - GATE_AGAIN_S
        while True:
            self._more.clear()
            topics = {topic: text.encode() if isinstance(text, str) else text for topic, text in self._snapshot().items()}
            if topics:
                everything = time_s() - all_said_at >= AGAIN_S
                if everything:
                    all_said_at = time_s()
                gates = everything or time_s() - gates_said_at >= GATE_AGAIN_S
                if gates:
                    gates_said_at = time_s()
                changed = {
                    topic: text
                    for topic, text in topics.items()
                    if everything or (gates and _is_gate(topic)) or self._said.get(topic) != text
                }
                # A topic that is no more is taken back: an empty message is how MQTT says so.
                changed |= {topic: b"" for topic in self._said if topic not in topics}
                await self._say(connection, changed)
                if everything or not online:
                    online = True
                    await connection.publish(self.status(ONLINE))
            await self._wait()

    async def farewell(self, connection: Connection) -> None:
        """Every gate closed, what is no more taken back, and `offline`."""
        last: dict[str, bytes] = {}
        for topic, text in self._said.items():
            if _is_gate(topic):
                last[topic] = _closed(text)
            elif topic not in LASTING:
                last[topic] = b""
        await self._say(connection, last)
        await connection.publish(self.status(OFFLINE))

    async def _say(self, connection: Connection, topics: Mapping[str, bytes]) -> None:
        # Gates first: of everything that is told, an answer that is not so any more costs most.
        left = iter(sorted(topics.items(), key=lambda item: not _is_gate(item[0])))
        while some := list(islice(left, TOGETHER)):
            await asyncio.gather(*(self._say_one(connection, topic, text) for topic, text in some))

    async def _say_one(self, connection: Connection, topic: str, text: bytes) -> None:
        expiry_s = None if topic in LASTING or not text else GATE_EXPIRY_S if _is_gate(topic) else EXPIRY_S
        at = self._at() if text and _is_gate(topic) else ""
        payload = _json({**json.loads(text), "at": at}).encode() if at else text
        ack = await connection.publish(Outgoing(topic=joined(self._prefix, topic), payload=payload, retain=True, expiry_s=expiry_s))
        if ack.refused and topic not in self._refused:
            self._refused.add(topic)
            log().error("mqtt.state_refused", topic=joined(self._prefix, topic), reason=ack.refused, consequence="nobody reads it")
        if text:
            self._said[topic] = text
        else:
            self._said.pop(topic, None)

    async def _wait(self) -> None:
        await asyncio.sleep(LOOK_MIN_S)
        try:
            async with asyncio.timeout(LOOK_S - LOOK_MIN_S):
                await self._more.wait()
        except TimeoutError:
            return


def _is_gate(topic: str) -> bool:
    return topic == GATE or topic.startswith(f"{GATE}/")


def _closed(text: bytes) -> bytes:
    """A gate's answer, closed because nobody watches any more."""
    answer = json.loads(text)
    return _json({**answer, "open": False, "why": "reefd is stopped: nobody watches"}).encode()
