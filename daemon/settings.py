"""The daemon's settings (floor 8): a YAML file, overridden by `REEFD_` variables, checked as a whole; read by `app` and `cli` only.

    settings = load_settings(Path("config/reefd.yaml"))      # raises SettingsError with every mistake
    settings.topology(); settings.feed_plan("dydx"); settings.endpoints()

`REEFD_VENUES__DYDX__URL=...` overrides `venues.dydx.url`; names match without regard to case, `_` stands for `-` and `:` too; lists are
JSON or words separated by commas. Secrets are named, never written: `env:NAME` or `file:PATH`. Durations are int ns, money USD, ratios
fractions. Paths are relative to the working directory.
"""

from __future__ import annotations

import base64
import difflib
import ipaddress
import json
import os
import re
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from daemon.edges import bridge as bridge_edge
from daemon.edges.broker import ENDPOINT, Broker, Tls
from daemon.edges.dydx import feed as dydx_edge
from daemon.edges.formats import CHAT, Format
from daemon.edges.provides import BRIDGE, DYDX
from daemon.edges.webhook import Endpoint, Grouping
from daemon.errors import Diagnostic, SettingsError
from daemon.language.catalogue import observed
from daemon.runbook.document import Document, compose
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.service.heartbeat import ENDPOINT as HEARTBEAT
from daemon.units import HOUR_NS, MINUTE_NS, NS, parse_duration, parse_quantity, show_duration
from daemon.world.entities import Account, Kind, Route, Topology, Venue

PREFIX = "REEFD_"
DELIMITER = "__"
# Read by the command line itself, and by replays.
RESERVED = frozenset({"REEFD_CONFIG", "REEFD_CACHE_DIR", "REEFD_TOKEN", "REEFD_URL"})
SECRET_BYTES_MIN = 16  # Standard Webhooks asks for 24 to 64; a receiver that issues fewer than 16 protects nothing
HOLDS_SECRET = re.compile("secret|whsec_|token|routing_key|password")  # in a key or a line: what stands there is never shown
HTTP_UNSAFE = "http:// is not encrypted; write https://, or allow_private: true for an endpoint on this machine or network"
ENVIRONMENT = "environment"
CADENCE_MIN_NS = NS // 10
LOOPBACK = ("127.0.0.1", "::1", "localhost")
Plain = None | str | list["Plain"] | dict[str, "Plain"]
Location = tuple[int | str, ...]


def _quantity(raw: object, example: str, units: tuple[str, ...]) -> float:
    try:
        value, unit = parse_quantity(str(raw))
    except ValueError:
        raise ValueError(f"found {raw!r}; write for example {example}") from None
    if unit not in units:
        raise ValueError(f"found {raw!r}, which is not of unit {units[0]}; write for example {example}")
    return value


def _duration(raw: object) -> int:
    try:
        return parse_duration(str(raw))
    except ValueError:
        raise ValueError(f"found {raw!r}; write a duration with its unit, for example 2s, 5m or 1h") from None


def _ratio(raw: object) -> float:
    return _quantity(raw, "5bps or 0.1%", ("ratio",))


def _usd(raw: object) -> float:
    return _quantity(raw, "100_000 USD", ("USD",))


def _web_address(raw: object) -> str:
    parts = urlsplit(str(raw))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"found {raw!r}; write a web address, for example https://indexer.dydx.trade/v4")
    if parts.username or parts.password:
        raise ValueError("found a user name or password in the address; leave it out")
    return str(raw).rstrip("/")


def _address(raw: object) -> str:
    """A web address, or where one is kept that holds a token."""
    return str(raw) if str(raw).startswith(("env:", "file:")) else _web_address(raw)


def _secret(raw: object) -> str:
    kind, _, name = str(raw).partition(":")
    if kind not in ("env", "file") or not name:
        raise ValueError("a secret is not written into the settings; write env:NAME or file:PATH")
    return str(raw)


def _words(raw: object) -> object:
    """A list from the environment: JSON, or words separated by commas."""
    if not isinstance(raw, str):
        return raw
    if raw.lstrip().startswith("["):
        try:
            return json.loads(raw)
        except ValueError:
            raise ValueError(f"found {raw!r}; write a list, for example BTC-USD,ETH-USD") from None
    return [word.strip() for word in raw.split(",") if word.strip()]


def _account_id(raw: str) -> str:
    if ":" in raw or not raw:
        raise ValueError(f"found {raw!r}; an account's name has no colon, because its positions are called NAME:BTC-USD")
    return raw


def _has_tokens(path: Path) -> bool:
    """Whether a tokens file holds one; what else is wrong with it the daemon says when it reads it, and admits nobody."""
    try:
        return "- name:" in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def _host_names(names: tuple[str, ...]) -> tuple[str, ...]:
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]", name):
            raise ValueError(f"found {name!r}; write names without scheme and port, for example reefd.example.com")
    return names


def _within(least: str, most: str) -> Callable[[int], int]:
    def check(value: int) -> int:
        if not parse_duration(least) <= value <= parse_duration(most):
            raise ValueError(f"found {show_duration(value / NS)}; write a duration from {least} to {most}")
        return value

    return check


def _whole_hours(value: int) -> int:
    if value % HOUR_NS:
        raise ValueError(f"found {show_duration(value / NS)}; write whole hours, for example 24h")
    return value


Duration = Annotated[int, BeforeValidator(_duration), Field(ge=0)]
Cadence = Annotated[int, BeforeValidator(_duration), Field(ge=CADENCE_MIN_NS)]
Ratio = Annotated[float, BeforeValidator(_ratio), Field(ge=0, lt=1)]
Usd = Annotated[float, BeforeValidator(_usd), Field(ge=0)]
Url = Annotated[str, BeforeValidator(_web_address)]
Address = Annotated[str, BeforeValidator(_address)]
SecretRef = Annotated[str, BeforeValidator(_secret)]
Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
AccountId = Annotated[str, AfterValidator(_account_id)]


class _Section(BaseModel):
    """A part of the settings: unknown keys are errors; a key without a value counts as not written."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _written(cls, raw: object) -> object:
        if raw is None:
            return {}
        return {key: value for key, value in raw.items() if value is not None} if isinstance(raw, dict) else raw


class AccountSettings(_Section):
    """A margin account: its address on the venue's chain and its subaccount."""

    address: Annotated[str, Field(min_length=1)]
    subaccount: Annotated[int, Field(ge=0, le=128_000)] = 0


class PollSettings(_Section):
    """How often each thing is asked for, in the venue's time."""

    height: Cadence = NS
    markets: Cadence = 2 * NS
    book: Cadence = 2 * NS
    account: Cadence = 3 * NS
    funding: Cadence = 30 * NS
    candles: Cadence = 15 * NS


class VenueSettings(_Section):
    """A venue: where it is read, which accounts and markets of it are watched, and whether orders can be sent."""

    adapter: Literal["dydx-v4"]
    url: Url  # of the indexer's REST API, with /v4
    orders: Literal["none", "simulated"] = "none"
    orders_url: Url | None = None  # of the order API; default: url without its path
    chain: str | None = None
    accounts: dict[AccountId, AccountSettings] = {}
    markets: Annotated[Words, Field(min_length=1)]
    polls: PollSettings = PollSettings()
    requests_per_10s: Annotated[int, Field(ge=1)] = 95  # the venue allows 100 from one address
    model: Literal["dydx-v4"] = "dydx-v4"
    valued_at: Annotated[tuple[Literal["oracle_price", "mark_price", "last_price"], ...], BeforeValidator(_words)] = ("oracle_price",)
    funding_interval: Annotated[Duration, Field(gt=0)] = HOUR_NS
    taker_fee: Ratio = 0.0005
    slippage: Ratio = 0.0005  # assumed where no book is known
    proxy: Url | None = None

    def order_api(self) -> str:
        """Address of the order API, without a path."""
        parts = urlsplit(self.url)
        return self.orders_url or f"{parts.scheme}://{parts.netloc}"

    def requests_needed(self) -> float:
        """Requests in 10 s of venue time that the cadences ask for, candles left out (the venue counts them apart)."""
        polls = self.polls
        each = 1 / polls.height + 1 / polls.markets + len(self.markets) * (1 / polls.book + 1 / polls.funding)
        return 10 * NS * (each + 2 * len(self.accounts) / polls.account)


class BridgeSettings(_Section):
    """Who tells of chains, routes and buffers, and carries transfers; `governance` is the venue whose proposals it tells."""

    adapter: Literal["simulated"]
    url: Url
    every: Cadence = 5 * NS
    governance: str | None = None
    governance_every: Cadence = 60 * NS


class ChainSettings(_Section):
    """A chain that is watched."""


class BufferSettings(_Section):
    """Idle collateral on a chain; `address` is for people, the simulated venue knows its buffers by chain."""

    address: str = ""


class RouteSettings(_Section):
    """A way for collateral; eta, fee and capacity are what is assumed until the route's own readings come."""

    source: Annotated[str, Field(alias="from")]
    destination: Annotated[str, Field(alias="to")]
    eta: Duration = 0
    eta_p95: Duration | None = None
    fee: Ratio = 0.0
    capacity: Usd = float("inf")
    model: str = ""  # the law of its delays in the world of a stress; empty: the world's default


class GroupingSettings(_Section):
    """Which messages are told together (what they have in common), and how often. In the daemon's time."""

    by: Annotated[tuple[Literal["runbook", "entity", "venue", "severity", "event"], ...], BeforeValidator(_words)] = ("runbook",)
    wait: Annotated[Duration, AfterValidator(_within("1s", "10m"))] = 10 * NS  # the first of a group, for company; what is critical: not
    interval: Annotated[Duration, AfterValidator(_within("1s", "24h"))] = 5 * MINUTE_NS  # between two messages of a group
    repeat: Annotated[Duration, AfterValidator(_within("1m", "30d"))] = 4 * HOUR_NS  # until a group is reminded of what still fires


class WebhookSettings(_Section):
    """An endpoint: where messages go, in which format, signed with what."""

    url: Address | None = None
    format: Format = "reefd"
    secret: SecretRef | None = None
    previous_secret: SecretRef | None = None  # signs too while receivers change over
    token: SecretRef | None = None  # telegram: the bot's
    chat_id: str = ""  # telegram
    routing_key: SecretRef | None = None  # pagerduty
    allow_private: bool = False
    ca_file: Path | None = None
    ordered: bool = True
    timeout: Annotated[Duration, Field(gt=0)] = 10 * NS
    grouped: bool | None = None  # default: what people read is, what machines read is not
    grouping: GroupingSettings | None = None
    fallback: str | None = None  # the endpoint that is told what is critical and could not be delivered here

    def address(self) -> str | None:
        """The url, or the only one that the format has; None when it is missing."""
        return self.url or {"telegram": "https://api.telegram.org", "pagerduty": "https://events.pagerduty.com/v2/enqueue"}.get(self.format)

    def grouping_wanted(self) -> Grouping | None:
        """How messages are grouped; None when each goes by itself."""
        wanted = self.grouped if self.grouped is not None else self.grouping is not None or self.format in CHAT
        if not wanted:
            return None
        spec = self.grouping or GroupingSettings()
        return Grouping(by=spec.by, wait_ns=spec.wait, interval_ns=spec.interval, repeat_ns=spec.repeat)


def _topic_prefix(value: str) -> str:
    if not value or any(c in value for c in "+#$\0") or value.startswith("/") or value.endswith("/") or len(value.encode()) > 100:
        raise ValueError(f"found {value!r}; a prefix is levels of a topic without +, # and $, for example reefd or desk/reefd")
    return value


def _fed(words: tuple[str, ...]) -> tuple[str, ...]:
    """Kinds, or signals of a kind, that may come over MQTT."""
    for word in words:
        name, dot, signal = word.partition(".")
        if name not in FED_KINDS:
            raise ValueError(f"found {word!r}; write a kind ({', '.join(FED_KINDS)}) or a signal of one, for example market.index_price")
        told = [s.name for s in observed(Kind(name)) if not s.internal]
        if dot and signal not in told:
            near = difflib.get_close_matches(signal, told, n=1)
            hint = f"did you mean {name}.{near[0]}?" if near else f"a {name} has: {', '.join(told)}"
            raise ValueError(f"found {word!r}, which is no observed signal of a {name}; {hint}")
    return words


FED_KINDS = tuple(kind.value for kind in Kind if kind is not Kind.PORTFOLIO)  # what is told of the portfolio is told by the stress


class MqttSettings(_Section):
    """An MQTT 5 broker: notices and state go out there; observations and commands come in where that is allowed."""

    host: Annotated[str, Field(min_length=1)]
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None  # default: 1883, 8883 with tls
    prefix: Annotated[str, AfterValidator(_topic_prefix)] = "reefd"
    client_id: Annotated[str, Field(max_length=100)] = ""  # default: prefix and house; two daemons of one id throw each other out
    username: str | None = None
    password: SecretRef | None = None
    tls: bool = False
    ca: Path | None = None  # default: the system's certificates
    certificate: Path | None = None  # ours, where the broker asks for one
    key: Path | None = None
    allow_plain: bool = False
    feed: Annotated[Words, AfterValidator(_fed)] = ()
    commands: bool = False
    fallback: str | None = None  # the webhook that is told what is urgent and could not be delivered here
    timeout: Annotated[Duration, AfterValidator(_within("100ms", "60s"))] = 5 * NS  # for one answer of the broker, real time

    def broker_port(self) -> int:
        """The port, or the usual one."""
        return self.port or (8883 if self.tls else 1883)

    def address(self) -> str:
        """The broker for people, without secrets."""
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.broker_port()}"

    def fed(self) -> Mapping[Kind, frozenset[str]]:
        """The signals that may come in, by kind."""
        found: dict[Kind, frozenset[str]] = {}
        for word in self.feed:
            name, dot, signal = word.partition(".")
            kind = Kind(name)
            more = {signal} if dot else {s.name for s in observed(kind) if not s.internal}
            found[kind] = found.get(kind, frozenset()) | more
        return found

    def unfit(self) -> list[tuple[Location, str]]:
        """What does not go together: where, and what to write."""
        found: list[tuple[Location, str]] = []
        if self.password is not None and self.username is None:
            found.append((("password",), "there is no username to it; write username: ..."))
        if self.key is not None and self.certificate is None:
            found.append((("key",), "there is no certificate to it; write certificate: PATH"))
        for name in ("ca", "certificate"):
            if getattr(self, name) is not None and not self.tls:
                found.append(((name,), "nothing is encrypted without tls; write tls: true"))
        if not self.tls and not self.allow_plain and self.host not in LOOPBACK:
            text = "without tls everybody on the way reads and writes along; write tls: true, or allow_plain: true"
            found.append((("host",), f"{text} for a network of your own"))
        return found


class JournalSettings(_Section):
    """Where the journal is kept."""

    path: Path = Path("var/state.db")
    feed_path: Path | None = None  # default: feed.db beside the journal

    def feed(self) -> Path:
        """Where the feed is kept."""
        return self.feed_path or self.path.with_name("feed.db")


class LogSettings(_Section):
    """How log lines look: `auto` is readable on a terminal and JSON elsewhere."""

    format: Literal["auto", "json", "console"] = "auto"


class ClockSettings(_Section):
    """Whose time the daemon keeps: the wall's, or an accelerated simulated venue's."""

    follow: Literal["wall", "venue"] = "wall"
    venue: str | None = None


class LatenessSettings(_Section):
    """How long to wait, in real time."""

    request: Annotated[Duration, Field(gt=0)] = 5 * NS  # for one HTTP answer
    stop: Duration = 10 * NS  # for what is on the wire when the daemon stops


class StressSettings(_Section):
    """The stress of the live book by the calendar, in a process of its own; its seed is its due time in seconds."""

    world: Path
    every: Annotated[Duration, AfterValidator(_within("5m", "24h"))] = HOUR_NS
    paths: Annotated[int, Field(ge=10, le=1_000_000)] = 1_000
    horizon: Annotated[Duration, AfterValidator(_within("1h", "92d")), AfterValidator(_whole_hours)] = 24 * HOUR_NS
    timeout: Annotated[Duration, AfterValidator(_within("1s", "24h"))] = 600 * NS  # real time, then its process is killed
    missed: Literal["run_once", "skip"] = "run_once"  # due while the daemon was down


class HeartbeatSettings(_Section):
    """The dead man's switch: an address outside that hears at a cadence that this daemon turns and sees."""

    url: Url
    every: Annotated[Duration, AfterValidator(_within("10s", "1h"))] = 60 * NS  # real time
    secret: SecretRef | None = None
    allow_private: bool = False


class HttpSettings(_Section):
    """The operator's surface: where it listens, under which names it is asked, and who may read without a token."""

    enabled: bool = True
    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8470  # 0: a free one
    public_url: Url | None = None  # what people type where a proxy stands before it
    hosts: Annotated[Words, AfterValidator(_host_names)] = ()
    open_reading: bool | None = None
    tokens: Path = Path("var/tokens.yaml")  # beside the journal, as the two that follow
    operator_token: Path = Path("var/operator.token")
    reports: Path = Path("var/reports")  # pages that `--out` of replays, sweeps and stresses left there are served

    def loopback(self) -> bool:
        """True when only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host.strip("[]")).is_loopback
        except ValueError:
            return self.host == "localhost"

    def reading_is_open(self) -> bool:
        """Whether anybody who reaches it may read. Where a proxy stands before it, everybody seems to come from this machine."""
        return self.loopback() and self.public_url is None and not self.hosts if self.open_reading is None else self.open_reading

    def own_url(self) -> str:
        """Its address as this machine reaches it, without a slash at the end."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host.strip("[]"), self.host.strip("[]"))
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"


class Settings(BaseSettings):
    """Everything the daemon is told at its start."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    house: Annotated[str, Field(min_length=1)] = "reefd"
    venues: dict[str, VenueSettings] = {}
    bridge: BridgeSettings | None = None
    chains: dict[str, ChainSettings] = {}
    routes: dict[str, RouteSettings] = {}
    buffers: dict[str, BufferSettings] = {}
    webhooks: dict[str, WebhookSettings] = {}
    mqtt: MqttSettings | None = None
    channels: dict[str, Words] = {}
    labels: dict[str, dict[str, str]] = {}
    runbooks: Path = Path("runbooks")
    limits: Path | None = None
    journal: JournalSettings = JournalSettings()
    halt_file: Path = Path("var/halt")
    log: LogSettings = LogSettings()
    clock: ClockSettings = ClockSettings()
    stress: StressSettings | None = None
    heartbeat: HeartbeatSettings | None = None
    lateness: LatenessSettings = LatenessSettings()
    http: HttpSettings = HttpSettings()

    @model_validator(mode="before")
    @classmethod
    def _beside_the_journal(cls, raw: object) -> object:
        """Tokens and reports lie beside the journal where nothing else is said: two daemons of one folder share neither."""
        if not isinstance(raw, dict) or not isinstance(raw.get("http") or {}, dict) or not isinstance(raw.get("journal") or {}, dict):
            return raw
        folder = Path(str((raw.get("journal") or {}).get("path") or "var/state.db")).parent
        beside = {"tokens": folder / "tokens.yaml", "operator_token": folder / "operator.token", "reports": folder / "reports"}
        return {**raw, "http": {**beside, **{key: value for key, value in (raw.get("http") or {}).items() if value is not None}}}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before the file; nothing else (no .env file, no secrets folder)."""
        written = init_settings()
        return _Environment(settings_cls, written), init_settings

    def accounts(self, venue: str) -> tuple[Account, ...]:
        """The accounts of one venue."""
        found = self.venues[venue].accounts.items()
        return tuple(Account(id=name, venue=venue, address=account.address, subaccount=account.subaccount) for name, account in found)

    def topology(self) -> Topology:
        """What is static of the world: venues with what their adapters provide, accounts, routes, labels."""
        venues = {
            name: Venue(
                id=name,
                chain=venue.chain,
                model=venue.model,
                valued_at=venue.valued_at,
                funding_interval_ns=venue.funding_interval,
                provides=self.provides(name),
            )
            for name, venue in self.venues.items()
        }
        routes = {
            name: Route(
                name=name,
                source=route.source,
                destination=route.destination,
                eta_ns=route.eta,
                eta_p95_ns=route.eta_p95,
                fee=route.fee,
                capacity_usd=route.capacity,
            )
            for name, route in self.routes.items()
        }
        accounts = {account.id: account for name in self.venues for account in self.accounts(name)}
        return Topology(venues=venues, accounts=accounts, routes=routes, labels=self.labels)

    def provides(self, venue: str) -> Mapping[Kind, frozenset[str]]:
        """The observed signals of one venue's entities: its adapter's, its governance where the bridge tells it, and what MQTT may tell."""
        found = dict(self.adapter_provides(venue))
        for kind, signals in self.mqtt.fed().items() if self.mqtt is not None else ():
            if kind in found:
                found[kind] |= signals
        return found

    def adapter_provides(self, venue: str) -> Mapping[Kind, frozenset[str]]:
        """The observed signals that a venue's own adapter and the bridge tell."""
        found = dict(DYDX)
        if self.bridge is not None and self.bridge.governance == venue:
            found[Kind.VENUE] = found[Kind.VENUE] | BRIDGE[Kind.VENUE]
        return found

    def adapter_tells(self, kind: Kind, entity: str) -> frozenset[str]:
        """The signals of one entity that an adapter of these settings tells: nobody else may."""
        head = entity.partition(":")[0]
        if kind in (Kind.CHAIN, Kind.ROUTE):
            watched = {*self.chains, *self.buffers} if kind is Kind.CHAIN else set(self.routes)
            return BRIDGE[kind] if self.bridge is not None and entity in watched else frozenset()
        owner = {account: name for name, venue in self.venues.items() for account in venue.accounts}
        venue = owner.get(head, head) if kind in (Kind.POSITION, Kind.ACCOUNT) else head
        return self.adapter_provides(venue).get(kind, frozenset()) if venue in self.venues else frozenset()

    def mqtt_broker(self) -> Broker | None:
        """The MQTT broker with its secrets and certificates read; None without one. Raises SettingsError."""
        spec = self.mqtt
        if spec is None:
            return None
        problems: list[str] = []
        password = context = None
        if spec.password is not None:
            password, problem = read_key(spec.password, "the password of the MQTT broker")
            problems += [f"mqtt.password: {problem}"] if problem else []
        if spec.tls:
            try:
                context = Tls(ca=spec.ca, certificate=spec.certificate, key=spec.key).prepared()
            except OSError as error:
                named = ", ".join(f"{name}: {path}" for name in ("ca", "certificate", "key") if (path := getattr(spec, name)) is not None)
                problems.append(f"mqtt.tls: a certificate cannot be used ({error.strerror or error}); look at {named or 'ca'}")
        if problems:
            raise SettingsError("\n".join(problems))
        return Broker(
            host=spec.host,
            port=spec.broker_port(),
            client_id=spec.client_id or f"{spec.prefix}-{self.house}",
            username=spec.username,
            password=password,
            tls=context,
            timeout_s=spec.timeout / NS,
        )

    def feed_plan(self, venue: str) -> dydx_edge.FeedPlan:
        """What the feed of one venue observes."""
        spec = self.venues[venue]
        polls = spec.polls
        return dydx_edge.FeedPlan(
            venue=venue,
            markets=spec.markets,
            accounts=self.accounts(venue),
            cadences=dydx_edge.Cadences(
                height_ns=polls.height,
                markets_ns=polls.markets,
                book_ns=polls.book,
                account_ns=polls.account,
                funding_ns=polls.funding,
                candles_ns=polls.candles,
            ),
            taker_fee=spec.taker_fee,
            slippage=spec.slippage,
            funding_interval_ns=spec.funding_interval,
        )

    def bridge_plan(self) -> bridge_edge.BridgePlan | None:
        """What the bridge's feed observes; None without a bridge."""
        if self.bridge is None:
            return None
        chains = dict.fromkeys([*self.chains, *self.buffers])
        return bridge_edge.BridgePlan(
            chains=tuple(chains),
            routes=tuple(self.routes),
            venue=self.bridge.governance or "",
            chains_ns=self.bridge.every,
            routes_ns=self.bridge.every,
            venue_ns=self.bridge.governance_every,
        )

    def listens(self) -> HttpSettings | None:
        """The operator's surface; None when it is off. Raises SettingsError when other machines can reach it and nobody has a token."""
        if not self.http.enabled:
            return None
        if not self.http.loopback() and not _has_tokens(self.http.tokens):
            raise SettingsError(
                f"http.host: {self.http.host} can be reached from other machines, and there is no token at {self.http.tokens}; "
                "run: reefd token new NAME --role admin, or write host: 127.0.0.1"
            )
        return self.http

    def endpoints(self) -> tuple[Endpoint, ...]:
        """The webhook endpoints with their secrets read; raises SettingsError naming every secret that cannot be read."""
        problems: list[str] = []
        endpoints = [_endpoint(name, webhook, problems) for name, webhook in self.webhooks.items()]
        if problems:
            raise SettingsError("\n".join(problems))
        return tuple(endpoints)


    def heartbeat_endpoint(self) -> Endpoint | None:
        """Where the heartbeat goes; raises SettingsError when its secret cannot be read."""
        if self.heartbeat is None:
            return None
        secrets: tuple[str, ...] = ()
        if self.heartbeat.secret is not None:
            secret, problem = read_secret(self.heartbeat.secret)
            if problem:
                raise SettingsError(f"heartbeat.secret: {problem}")
            secrets = (secret,)
        return Endpoint(name=HEARTBEAT, url=self.heartbeat.url, secrets=secrets, allow_private=self.heartbeat.allow_private)


def _endpoint(name: str, webhook: WebhookSettings, problems: list[str]) -> Endpoint:
    """One endpoint with its secrets read; what is wrong is added to `problems`, without any secret."""

    def read(key: str, reference: str | None, reader: Callable[[str], tuple[str, str]]) -> str:
        if reference is None:
            return ""
        text, problem = reader(reference)
        problems.extend([f"webhooks.{name}.{key}: {problem}"] if problem else [])
        return text

    signing = [read(key, getattr(webhook, key), read_secret) for key in ("secret", "previous_secret")]
    url = webhook.address() or ""
    if url.startswith(("env:", "file:")):
        url = read("url", url, read_key if webhook.format == "apprise" else _read_address)
        if url.startswith("http://") and not webhook.allow_private:
            problems.append(f"webhooks.{name}.url: {HTTP_UNSAFE}")
    token = read("token", webhook.token, read_key)
    if webhook.ca_file is not None:
        try:
            ssl.create_default_context(cafile=webhook.ca_file)
        except OSError as error:
            why = error.strerror if isinstance(error, FileNotFoundError | PermissionError) else "it holds no certificate"
            problems.append(f"webhooks.{name}.ca_file: {webhook.ca_file} cannot be used: {why}")
    return Endpoint(
        name=name,
        url=f"{url.rstrip('/')}/bot{token}/sendMessage" if webhook.format == "telegram" else url,
        secrets=tuple(secret for secret in signing if secret),
        format=webhook.format,
        allow_private=webhook.allow_private,
        ordered=webhook.ordered,
        timeout_s=webhook.timeout / NS,
        ca_file="" if webhook.ca_file is None else str(webhook.ca_file),
        chat_id=webhook.chat_id,
        routing_key=read("routing_key", webhook.routing_key, read_key),
        grouping=webhook.grouping_wanted(),
        fallback=webhook.fallback or "",
    )


class _Environment(PydanticBaseSettingsSource):
    """`REEFD_` variables as nested settings; `written` (the file) tells how a name is spelt."""

    def __init__(self, settings_cls: type[BaseSettings], written: Mapping[str, Any]) -> None:
        super().__init__(settings_cls)
        self._written = written

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Nothing for a single field: `__call__` gives all fields at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The settings that the environment gives."""
        return overrides(self._written, os.environ)[0]


def overrides(written: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[Location, str]]:
    """What `REEFD_A__B` variables say, nested, with the variable's name by location; a key is spelt as in `written` where it is there."""
    nested: dict[str, Any] = {}
    named: dict[Location, str] = {}
    for variable in sorted(environ):
        if not variable.upper().startswith(PREFIX) or variable in RESERVED:
            continue
        parts = variable[len(PREFIX) :].split(DELIMITER)
        if parts[0].lower() not in Settings.model_fields:
            continue  # reported by `_strangers`, unless a secret goes by that name
        here, into, location = written, nested, []
        for part in parts:
            key = next((name for name in here if isinstance(name, str) and _folded(name) == _folded(part)), part.lower())
            location.append(key)
            below = here.get(key)
            here = below if isinstance(below, Mapping) else {}
            if len(location) < len(parts):
                deeper = into.setdefault(key, {})
                into = deeper if isinstance(deeper, dict) else {}
        into[location[-1]] = _from_json(environ[variable])
        named[tuple(location)] = variable
    return nested, named


def _folded(name: str) -> str:
    return re.sub(r"[-:.]", "_", name).lower()


def _from_json(text: str) -> Any:
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text  # refused where it is validated, with its name


def read_secret(reference: str) -> tuple[str, str]:
    """The secret of `env:NAME` or `file:PATH`, and what is wrong with it ("" when nothing is). Never part of a message."""
    secret, problem = read_key(reference, "the endpoint's whsec_... secret")
    if problem:
        return "", problem
    try:
        body = secret.removeprefix("whsec_").rstrip("=")
        key = base64.b64decode(body + "=" * (-len(body) % 4), validate=True)
    except ValueError:
        key = b""
    if len(key) < SECRET_BYTES_MIN:
        return "", f"what {reference} holds is no webhook secret; it is `whsec_` and the base64 of at least {SECRET_BYTES_MIN} bytes"
    return secret, ""


def read_key(reference: str, what: str = "the receiver's key") -> tuple[str, str]:
    """The text of `env:NAME` or `file:PATH`, and what is wrong with it ("" when nothing is). Never part of a message."""
    kind, _, name = reference.partition(":")
    if kind == "env":
        key = os.environ.get(name, "").strip()
        return (key, "") if key else ("", f"the variable {name} is not set; set it to {what}")
    try:
        key = Path(name).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        return "", f"{name} cannot be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}"
    return (key, "") if key else ("", f"{name} is empty; it holds {what}")


def _read_address(reference: str) -> tuple[str, str]:
    address, problem = read_key(reference, "the receiver's web address")
    parts = urlsplit(address)
    if not problem and (parts.scheme not in ("http", "https") or not parts.hostname):
        return "", f"what {reference} holds is no web address; it starts with https://"
    return address, problem


def load_settings(path: Path) -> Settings:
    """The settings of a file and the environment; raises SettingsError with every mistake of both."""
    try:
        content = path.read_bytes()
    except OSError as error:
        message = f"{path}: {(error.strerror or str(error)).lower()}; --config names the settings, config/reefd.yaml is the shipped example"
        raise SettingsError(message) from error
    return parse_settings(content, str(path))


def parse_settings(content: bytes | str, path: str) -> Settings:
    """The settings of a text and the environment; raises SettingsError with every mistake of both."""
    document = compose(content, path)
    if document.root is None:
        raise SettingsError(_render([_reworded(problem) for problem in document.problems]))
    plain = _plain(document.root)
    if not isinstance(plain, dict):
        raise SettingsError(f"{path}: settings are `key: value` lines, found a {'list' if isinstance(plain, list) else 'single value'}")
    written: dict[str, Any] = {key: value for key, value in plain.items() if value is not None}
    from_environment, named = overrides(written, os.environ)
    complaints = [_reworded(problem) for problem in document.problems]
    settings = None
    try:
        settings = Settings(**written)
    except ValidationError as error:
        complaints += [_complaint(document, found, named) for found in error.errors(include_url=False)]
    complaints += _strangers(_merged(written, from_environment), os.environ)
    if settings is not None:
        complaints += [_point(document, location, "C005", message, named) for location, message in references(settings)]
    if complaints or settings is None:
        raise SettingsError(_render(sorted(complaints, key=lambda c: (c.line == 0, c.line, c.column, c.message))))
    return settings


def _render(complaints: Sequence[Diagnostic]) -> str:
    """The complaints as text. A line of the file that may hold a secret is not shown; a variable has no line."""
    shown = [replace(c, source_line="") if HOLDS_SECRET.search(c.source_line) else c for c in complaints]
    return "\n".join(c.message if c.file == ENVIRONMENT else c.render() for c in shown)


def references(settings: Settings) -> list[tuple[Location, str]]:
    """Everything that names something which is not there or does not fit together: where, and what to write."""
    found: list[tuple[Location, str]] = []
    ends = {*settings.chains, *settings.buffers, *settings.venues, *(name for v in settings.venues.values() for name in v.accounts)}
    owner: dict[str, str] = {}

    def known(location: Location, name: str | None, names: set[str], what: str) -> None:
        if name is not None and name not in names:
            found.append((location, f"there is no {what} {name!r}; {_choose(name, names)}"))

    for name, venue in settings.venues.items():
        known(("venues", name, "chain"), venue.chain, set(settings.chains), "chain")
        for account in venue.accounts:
            if account in owner:
                text = f"the account {account!r} is also at {owner[account]}; write another name, for example {name}#2"
                found.append((("venues", name, "accounts", account), text))
            owner.setdefault(account, name)
        for market in venue.markets:
            if "-" not in market or market != market.upper():
                found.append((("venues", name, "markets"), f"found the market {market!r}; write it as the venue does, for example BTC-USD"))
        needed = venue.requests_needed()
        if needed > venue.requests_per_10s:
            text = f"the polls need {needed:.0f} requests in 10 s, requests_per_10s is {venue.requests_per_10s}; poll less often"
            found.append((("venues", name, "polls") if venue.polls != PollSettings() else ("venues", name), text))
    for name, route in settings.routes.items():
        known(("routes", name, "from"), route.source, ends, "chain, venue or account")
        known(("routes", name, "to"), route.destination, ends, "chain, venue or account")
        if route.eta_p95 is not None and route.eta_p95 < route.eta:
            text = "the slow tail is faster than eta; write the time that 95 % of transfers stay under"
            found.append((("routes", name, "eta_p95"), text))
    for name in settings.buffers:
        known(("buffers", name), name, set(settings.chains), "chain")
    fed = settings.mqtt.fed() if settings.mqtt is not None else {}
    if settings.bridge is None and not {Kind.CHAIN, Kind.ROUTE} & set(fed) and (settings.routes or settings.chains or settings.buffers):
        section = next(s for s in ("routes", "chains", "buffers") if getattr(settings, s))
        found.append(((section,), "nobody tells of these without a bridge; write bridge: {adapter: simulated, url: ...}"))
    if settings.bridge is not None:
        known(("bridge", "governance"), settings.bridge.governance, set(settings.venues), "venue")
    for name, endpoints in settings.channels.items():
        for endpoint in endpoints:
            known(("channels", name), endpoint, {*settings.webhooks, *([ENDPOINT] if settings.mqtt is not None else [])}, "webhook")
    for name, webhook in settings.webhooks.items():
        known(("webhooks", name, "fallback"), webhook.fallback, set(settings.webhooks) - {name}, "other webhook")
        found += [(("webhooks", name, *where), text) for where, text in _unfit(webhook)]
    if settings.mqtt is not None:
        known(("mqtt", "fallback"), settings.mqtt.fallback, set(settings.webhooks), "webhook")
        found += [(("mqtt", *where), text) for where, text in settings.mqtt.unfit()]
        if ENDPOINT in settings.webhooks:
            found.append((("webhooks", ENDPOINT), "in a channel this name means the MQTT broker; give the webhook another one"))
    if settings.clock.venue is not None:
        known(("clock", "venue"), settings.clock.venue, set(settings.venues), "venue")
    elif settings.clock.follow == "venue" and len(settings.venues) != 1:
        text = f"{len(settings.venues)} venues are configured; write which one, clock: {{follow: venue, venue: NAME}}"
        found.append((("clock", "follow"), text))
    return found


def _unfit(webhook: WebhookSettings) -> list[tuple[Location, str]]:
    """What is missing of an endpoint, or does not go with its format: where, and what to write."""
    found: list[tuple[Location, str]] = []
    url = webhook.address()
    if url is None:
        found.append(((), f"url is missing; {_missing_hint('webhook url')}"))
    elif url.startswith("http://") and not webhook.allow_private:
        found.append((("url",), HTTP_UNSAFE))
    if webhook.format == "apprise" and url is not None and not url.startswith(("env:", "file:")):
        found.append((("url",), "an address of apprise holds the service's keys; write env:NAME or file:PATH"))
    if webhook.format == "reefd" and webhook.secret is None:
        found.append(((), f"secret is missing; messages of format reefd are signed: {_missing_hint('secret')}"))
    if webhook.previous_secret is not None and webhook.secret is None:
        found.append((("previous_secret",), "a previous secret signs beside a current one; write it as secret:"))
    for key, wanted in (("token", "telegram"), ("chat_id", "telegram"), ("routing_key", "pagerduty")):
        if getattr(webhook, key) and webhook.format != wanted:
            found.append(((key,), f"belongs to format: {wanted}, found format: {webhook.format}"))
        elif not getattr(webhook, key) and webhook.format == wanted:
            found.append(((), f"{key} is missing; {_missing_hint(key)}"))
    if webhook.format == "pagerduty" and webhook.grouping_wanted() is not None:
        found.append((("grouping" if webhook.grouping else "grouped",), "PagerDuty groups by itself, an incident an episode; leave it out"))
    if webhook.grouping is not None and webhook.grouped is False:
        found.append((("grouping",), "grouped: false switches it off; leave one of them out"))
    return found


def _choose(name: str, names: set[str]) -> str:
    near = difflib.get_close_matches(name, sorted(names), n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there is: {', '.join(sorted(names))}" if names else "none is configured"


def _plain(node: YamlNode) -> Plain:
    """The node as plain values; every scalar stays text, as in the environment."""
    match node:
        case ScalarNode():
            return None if node.empty else node.text
        case ListNode():
            return [_plain(item) for item in node.items]
        case MapNode():
            return {key.text: _plain(value) for key, value in node.entries}


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merged(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return merged


def _reworded(problem: Diagnostic) -> Diagnostic:
    """A YAML problem with the code of settings, and without the words meant for runbooks."""
    message = problem.message
    if problem.code == "E008":
        message = "the file is empty; settings start with `venues:`, config/reefd.yaml is the shipped example"
    message = message.replace("a second document starts here; write one runbook a file", "a second document starts here; write one")
    return replace(problem, code="C001", message=message)


def _strangers(merged: Mapping[str, Any], environ: Mapping[str, str]) -> list[Diagnostic]:
    """`REEFD_` variables that mean nothing: neither a setting nor a secret that the settings name."""
    secrets = set(re.findall(r"env:([^'\"\s,}]+)", repr([merged.get("webhooks"), merged.get("mqtt")])))
    found = []
    for variable in sorted(environ):
        head = variable[len(PREFIX) :].partition(DELIMITER)[0].lower()
        if not variable.upper().startswith(PREFIX) or variable in RESERVED | secrets or head in Settings.model_fields:
            continue
        near = difflib.get_close_matches(head, list(Settings.model_fields), n=1)
        hint = f"did you mean {PREFIX}{near[0].upper()}?" if near else f"settings are: {', '.join(Settings.model_fields)}"
        found.append(Diagnostic(file=ENVIRONMENT, line=0, column=0, code="C002", message=f"{variable}: sets nothing; {hint}"))
    return found


def _complaint(document: Document, error: Any, named: Mapping[Location, str]) -> Diagnostic:
    """One of pydantic's errors in the words of this house."""
    location: Location = tuple(part for part in error["loc"] if part != "[key]")
    found, context = error["input"], error.get("ctx", {})
    last = str(location[-1]) if location else ""
    match error["type"]:
        case "extra_forbidden":
            fields = _fields_at(location[:-1])
            near = difflib.get_close_matches(last, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"the keys here are: {', '.join(fields)}"
            return _point(document, location, "C002", f"{last!r} is no key of the settings; {hint}", named, key=True)
        case "missing":
            return _point(document, location[:-1], "C003", f"{last} is missing; {_missing_hint(last)}", named, key=True)
        case "value_error":
            message = str(error["msg"]).removeprefix("Value error, ")
        case "literal_error":
            message = f"found {found!r}; write {str(context.get('expected', '')).replace(chr(39), '')}"
        case "int_parsing" | "int_type" | "int_from_float":
            message = f"found {found!r}; write a whole number"
        case "bool_parsing" | "bool_type":
            message = f"found {found!r}; write true or false"
        case "greater_than_equal" if isinstance(context.get("ge"), int) and context["ge"] == CADENCE_MIN_NS:
            message = f"found {found!r}; write at least {CADENCE_MIN_NS // 1_000_000}ms"
        case "greater_than_equal" | "greater_than" | "less_than" | "less_than_equal":
            message = f"found {found!r}; {str(error['msg']).removeprefix('Input should be ')} is allowed"
        case "too_short" | "string_too_short":
            message = "is empty; write at least one"
        case "dict_type" | "model_type" | "model_attributes_type" | "mapping_type":
            message = f"found {found!r}; write `key: value` lines under it"
        case "tuple_type" | "list_type":
            message = f"found {found!r}; write a list, for example [BTC-USD, ETH-USD]"
        case "string_type":
            message = f"found {_shape(found)}; write a single text"
        case _:
            message = f"found {found!r}: {str(error['msg']).lower()}"
    if HOLDS_SECRET.search(last) or "whsec_" in repr(found):
        message = "a secret is not written into the settings; write env:NAME or file:PATH"
    return _point(document, location, "C004", message, named)


def _shape(found: object) -> str:
    return "a list" if isinstance(found, list) else "`key: value` lines" if isinstance(found, dict) else repr(found)


def _missing_hint(key: str) -> str:
    hints = {
        "url": "write for example url: http://127.0.0.1:8480/v4",
        "adapter": "write adapter: dydx-v4 (of a venue) or simulated (of the bridge)",
        "markets": "write for example markets: [BTC-USD, ETH-USD]",
        "address": "write the account's address, for example dydx1...",
        "secret": "write env:NAME or file:PATH",
        "host": "write for example host: 127.0.0.1",
        "token": "write the bot's as env:NAME or file:PATH",
        "chat_id": "write the chat's number, for example chat_id: -1001234567890",
        "routing_key": "write the integration's as env:NAME or file:PATH",
        "webhook url": "write for example url: https://hooks.example.com/reefd, or env:NAME where it holds a token",
        "from": "write the chain or venue that transfers leave",
        "to": "write the venue, account or chain that transfers reach",
        "world": "write for example world: config/worlds/calm.yaml",
    }
    return hints.get(key, f"write {key}: ...")


def _fields_at(location: Location) -> list[str]:
    """The keys that the settings know at a place."""
    annotation: Any = Settings
    for part in location:
        annotation = _below(annotation, str(part))
    model = _model_in(annotation)
    return [] if model is None else [field.alias or name for name, field in model.model_fields.items()]


def _below(annotation: Any, part: str) -> Any:
    """The annotation of what stands under `part`: in a mapping the user chose the name, in a section it is a field."""
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    model = _model_in(annotation)
    if model is None:
        return None
    return next((field.annotation for name, field in model.model_fields.items() if part in (name, field.alias)), None)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The section itself, or the one in `BridgeSettings | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is dict:
        return None
    return next((model for part in get_args(annotation) if (model := _model_in(part)) is not None), None)


def _point(
    document: Document, location: Location, code: str, message: str, named: Mapping[Location, str], *, key: bool = False
) -> Diagnostic:
    """A diagnostic at the variable that set the place, else at the deepest part of it that the file has."""
    where = ".".join(str(part) for part in location)
    variable = next((named[location[:n]] for n in range(len(location), 0, -1) if location[:n] in named), None)
    if variable is not None:
        return Diagnostic(file=ENVIRONMENT, line=0, column=0, code=code, message=f"{variable}: {message}", where=where)
    node: YamlNode | None = document.root
    start, end = (0, 1) if node is None else (node.start, node.start + 1)
    for part in location:
        if isinstance(node, MapNode):
            entry = next(((name, value) for name, value in node.entries if name.text == part), None)
            if entry is None:
                break
            name, node = entry
            empty = isinstance(node, ScalarNode) and node.empty
            start, end = (name.start, name.end) if key or empty or not isinstance(node, ScalarNode) else (node.start, node.end)
        elif isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
            start, end = node.start, node.end
        else:
            break
    return document.diagnostic(code, message, start, end, where=where)
