"""A world file as a checked model (floor 5): how prices, premiums, oracles, chains and routes behave in the futures of `reefd stress`.

    world = load_world(Path("config/worlds/calm.yaml"))     # raises RunbookError with every mistake, each at its line and column

Volatilities and drifts are ratios a year, rates are events an hour, durations int ns, money USD, prices ratios of the start price. An
optional section that is missing does not happen. Every section says where its numbers are from, or `assumed`. Every key: docs/worlds.md.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationInfo, field_validator, model_validator

from daemon.simulation.fields import Duration, Gwei, Ratio, Usd
from daemon.simulation.strict_file import FileForm, Plain, Strict, Where, load_strict, read_strict, section
from daemon.units import NS, parse_quantity

Regime = Literal["calm", "stressed", "crisis"]
REGIMES: tuple[Regime, ...] = ("calm", "stressed", "crisis")
DEFAULT = "default"
ASSUMED = "assumed"


def _per_hour(raw: object) -> float:
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return float(raw)
    value, unit = parse_quantity(str(raw))
    if unit != "rate/h" and value != 0.0:
        raise ValueError(f"expected events in a time, found {raw!r}; write for example 0.5/d or 1/30d")
    return value


def _number(raw: object) -> float:
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return float(raw)
    value, unit = parse_quantity(str(raw))
    if unit != "1":
        raise ValueError(f"expected a plain number, found {raw!r}; write for example 2.5")
    return value


PerHour = Annotated[float, BeforeValidator(_per_hour), Field(ge=0)]
Factor = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1e6)]
Number = Annotated[float, BeforeValidator(_number)]
Share = Annotated[Ratio, Field(ge=0, le=1)]
Source = Annotated[str, Field(min_length=1)]


class Multipliers(Strict):
    """What a regime multiplies, against calm."""

    volatility: Factor = 1.0
    jumps: Factor = 1.0  # how often prices jump
    depth: Factor = 1.0
    spread: Factor = 1.0
    gas: Factor = 1.0
    delay: Factor = 1.0  # how long transfers take that start in it
    oracle_freeze: Factor = 1.0  # also of oracles that are late or wrong
    venue_halt: Factor = 1.0
    bridge_lock: Factor = 1.0
    sequencer_stop: Factor = 1.0  # also of finality delays
    adl: Factor = 1.0


CALM = Multipliers()


class Regimes(Strict):
    """The chain of regimes: where it starts, how often it moves, and what the two worse ones multiply."""

    initial: Annotated[dict[Regime, Share], Field(min_length=1)]
    moves: dict[Regime, dict[Regime, PerHour]]
    stressed: Multipliers
    crisis: Multipliers
    source: Source

    @field_validator("initial")
    @classmethod
    def _sums_to_one(cls, initial: dict[Regime, float]) -> dict[Regime, float]:
        if abs(sum(initial.values()) - 1.0) > 1e-9:
            raise ValueError(f"the shares of the start add up to 100%, found {sum(initial.values()):.4%}")
        return initial

    def multipliers(self) -> tuple[Multipliers, Multipliers, Multipliers]:
        """The multipliers by number of the regime."""
        return CALM, self.stressed, self.crisis


class Jumps(Strict):
    """Moves between two rows: how often in calm, and the normal law of their log size."""

    rate: PerHour
    mean: Ratio = 0.0
    deviation: Annotated[Ratio, Field(ge=0, le=2)]
    source: str = ""


class AssetSpec(Strict):
    """A coin, against USD: what its index price does in calm, and what its books look like."""

    volatility: Annotated[Ratio, Field(ge=0, le=20)]
    drift: Ratio = 0.0  # expected return a year, jumps not counted
    jump_factor: Number = 1.0  # of a common jump's size
    jumps: Jumps | None = None  # its own
    spread: Annotated[Ratio, Field(ge=0, lt=1)] = 0.0
    depth: Annotated[Usd, Field(gt=0)] = 1e15  # a side within 50 bps
    initial_margin: Annotated[Ratio, Field(gt=0, le=1)] = 0.05  # for the clamp of dYdX funding, where the book does not say
    maintenance_margin: Annotated[Ratio, Field(gt=0, le=1)] = 0.03
    source: Source


class Copula(Strict):
    """How coins hang together within an hour: correlation, and the degrees of freedom of the shared mixing (none: normal)."""

    dof: Annotated[Number, Field(gt=2, le=1000)] | None = None
    correlation: Annotated[Ratio, Field(gt=-1, lt=1)] = 0.0
    pairs: Annotated[dict[str, Annotated[Ratio, Field(gt=-1, lt=1)]], Field(default_factory=dict)]
    source: Source


class Outage(Strict):
    """Something that happens now and then: how often in calm, and the log-normal law of how long."""

    rate: PerHour
    typical: Annotated[Duration, Field(gt=0)]
    p95: Annotated[Duration, Field(gt=0)]
    source: Source

    @field_validator("p95")
    @classmethod
    def _slow_is_slower(cls, p95: int, info: ValidationInfo) -> int:
        typical = info.data.get("typical", 0)
        if p95 < typical:
            raise ValueError("the slow tail p95 is shorter than typical; exchange the two")
        return p95


class Lateness(Outage):
    """An oracle that shows the market as it was `by` ago."""

    by: Annotated[Duration, Field(gt=0)]


class Wrongness(Outage):
    """An oracle that shows a wrong price: log error normal with this deviation."""

    deviation: Annotated[Ratio, Field(gt=0)]


class OracleSpec(Strict):
    """The price that margin uses, against the index."""

    deadband: Annotated[Ratio, Field(ge=0, lt=0.5)] = 0.0  # moves below it are not published
    smoothing: Annotated[Duration, Field(ge=0)] = 0  # of mid against the oracle in a mark price (hyperliquid)
    restart_stale: Annotated[Duration, Field(ge=0)] = 0  # how long it stands after a halt
    freeze: Outage | None = None
    late: Lateness | None = None
    wrong: Wrongness | None = None
    source: Source


class PremiumSpec(Strict):
    """Mid over index, less 1: a mean-reverting walk whose level and noise are the regime's, pushed by the index's own moves."""

    mean: dict[Regime, Ratio]
    noise: dict[Regime, Annotated[Ratio, Field(ge=0)]]  # deviation around the mean
    half_life: Annotated[Duration, Field(ge=300 * NS)]
    response: Number = 0.0  # of the premium to a log move of the index
    impact: Annotated[Ratio, Field(ge=0, lt=1)] = 0.0  # what the impact price gives away: premiums below it are sampled as 0
    source: Source

    @field_validator("mean", "noise")
    @classmethod
    def _names_every_regime(cls, by_regime: dict[Regime, float]) -> dict[Regime, float]:
        missing = [name for name in REGIMES if name not in by_regime]
        if missing:
            raise ValueError(f"a value for every regime is needed; add {', '.join(missing)}")
        return by_regime


class AdlSpec(Strict):
    """Auto-deleveraging: how often in calm a market's profitable positions are cut, and by which share."""

    rate: PerHour
    share: Annotated[Ratio, Field(gt=0, le=1)]
    source: Source


class VenueWorld(Strict):
    """What the venues of one model do."""

    premium: PremiumSpec | None = None
    oracle: OracleSpec | None = None
    funding_default: Ratio = 0.0  # added to the mean premium of dYdX, on the 8-hour rate
    halt: Outage | None = None
    gate: Annotated[Duration, Field(ge=0)] = 0  # withdrawals stay shut so long after a halt of five minutes or more
    adl: AdlSpec | None = None
    source: Source


class RouteWorld(Strict):
    """How long a transfer takes: `typical` half of them, `p95`, `tail` one in a thousand, `stuck` never; or exponential with a rate."""

    typical: Annotated[Duration, Field(gt=0)] | None = None
    p95: Annotated[Duration, Field(gt=0)] | None = None
    tail: Annotated[Duration, Field(gt=0)] | None = None
    stuck: Annotated[Share, Field(lt=0.04)] = 0.0
    exponential: PerHour | None = None
    waits_finality: bool = True  # of its source chain: a finality delay adds to its transfers
    lock: Outage | None = None  # the route closes
    source: Source

    @model_validator(mode="after")
    def _in_order(self) -> RouteWorld:
        known = [value for value in (self.typical, self.p95, self.tail) if value is not None]
        if known != sorted(known):
            raise ValueError("typical, p95 and tail do not rise; write them in that order of length")
        if self.exponential is not None and known:
            raise ValueError("a route has either exponential delays or typical, p95 and tail; take one out")
        return self


class FinalityDelay(Outage):
    """Finality takes `to` for a while."""

    to: Annotated[Duration, Field(gt=0)]


class ChainWorld(Strict):
    """A chain in calm, and what goes wrong with it."""

    rollup: bool = False
    block_time: Annotated[Duration, Field(gt=0)] = 12 * NS
    finality: Annotated[Duration, Field(ge=0)] = 0
    gas_price: Annotated[Gwei, Field(ge=0)] = 0.0
    tx_cost: Annotated[Usd, Field(ge=0)] = 0.0
    tx_per_block: Annotated[float, Field(ge=0)] = 0.0
    gas_deviation: Annotated[Ratio, Field(ge=0, le=5)] = 0.0  # log-normal, drawn anew with every change of regime
    stop: Outage | None = None
    finality_delay: FinalityDelay | None = None
    source: Source


class HistorySpec(Strict):
    """How a recorded past is drawn from: EWMA decay an hour, mean length of a block, and the folder of the recording.

    The regime of an hour is that of the volatility the path has reached, against its median in the past.
    """

    decay: Annotated[Number, Field(gt=0, lt=1)] = 0.97
    block: Annotated[Duration, Field(ge=3600 * NS)] = 24 * 3600 * NS
    recording: str | None = None
    stressed_above: Annotated[Factor, Field(gt=0)] = 1.5  # times the median volatility
    crisis_above: Annotated[Factor, Field(gt=0)] = 3.0
    source: Source


class WorldSpec(Strict):
    """A world."""

    world: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    title: str = ""
    model: Literal["history", "jump-diffusion", "gbm"]
    regimes: Regimes | None = None
    assets: Annotated[dict[str, AssetSpec], Field(min_length=1)]
    jumps: Jumps | None = None  # of all coins at once
    copula: Copula | None = None
    venues: Annotated[dict[Literal["dydx-v4", "hyperliquid"], VenueWorld], Field(default_factory=dict)]
    routes: Annotated[dict[str, RouteWorld], Field(default_factory=dict)]
    chains: Annotated[dict[str, ChainWorld], Field(default_factory=dict)]
    history: HistorySpec | None = None

    @model_validator(mode="before")
    @classmethod
    def _inherits(cls, raw: object) -> object:
        """Entries take what they do not say from their section's `default`."""
        if not isinstance(raw, dict):
            return raw
        filled = dict(raw)
        for name in ("assets", "routes", "chains"):
            entries = filled.get(name)
            if isinstance(entries, dict) and isinstance(entries.get(DEFAULT), dict):
                common = entries[DEFAULT]
                filled[name] = {key: {**common, **entry} if isinstance(entry, dict) else entry for key, entry in entries.items()}
        return filled

    def asset(self, base: str) -> AssetSpec:
        """The coin's own entry, or the default's. Raises KeyError when there is neither."""
        return self.assets[base] if base in self.assets else self.assets[DEFAULT]

    def route(self, model: str, name: str = "") -> RouteWorld | None:
        """The law of a route by its model, else by its name, else the default's; None when the file has none."""
        return next((self.routes[key] for key in (model, name, DEFAULT) if key in self.routes), None)

    def chain(self, name: str) -> ChainWorld | None:
        """The chain's own entry, or the default's; None when there is neither."""
        return self.chains.get(name, self.chains.get(DEFAULT))

    def correlation(self, one: str, other: str) -> float:
        """Correlation of the normals behind two coins."""
        if one == other:
            return 1.0
        if self.copula is None:
            return 0.0
        for pair in (f"{one}/{other}", f"{other}/{one}"):
            if pair in self.copula.pairs:
                return self.copula.pairs[pair]
        return self.copula.correlation

    def sources(self) -> Iterator[tuple[str, str]]:
        """(section, source) of everything the file states, in its order: what is calibrated and what is assumed."""
        yield from _sources(self, "")


def _sources(part: BaseModel, where: str) -> Iterator[tuple[str, str]]:
    said = getattr(part, "source", "")
    if said:
        yield where, said
    for name in type(part).model_fields:
        value = getattr(part, name)
        key = f"{where}.{name}" if where else name
        if isinstance(value, BaseModel):
            yield from _sources(value, key)
        elif isinstance(value, dict):
            for inner, entry in value.items():
                if isinstance(entry, BaseModel):
                    yield from _sources(entry, f"{key}.{inner}")


def load_world(path: Path) -> WorldSpec:
    """The world of a file. Raises RunbookError with every mistake, UserError when the file cannot be read."""
    return load_strict(path, FORM)


def parse_world(content: bytes | str, path: str) -> WorldSpec:
    """The world of a text. Raises RunbookError with every mistake."""
    return read_strict(content, path, FORM)


def _references(plain: Mapping[str, Plain]) -> Iterator[tuple[Where, str]]:
    """Numbers and sections that contradict each other: (path, message)."""
    if plain.get("model") == "gbm":
        for name in ("regimes", "jumps", "history"):
            if name in plain:
                yield (name,), f"a gbm world has no {name}; take it out, or write model: jump-diffusion"
    if "history" in plain and plain.get("model") == "jump-diffusion":
        yield ("history",), "a jump-diffusion world draws nothing from a recording; take it out, or write model: history"
    regimes = section(plain, "regimes")
    for start, moves in section(regimes, "moves").items():
        if isinstance(moves, dict) and start in moves:
            yield ("regimes", "moves", start, start), f"'{start}' does not move to itself; take it out"
    copula = section(plain, "copula")
    for pair in section(copula, "pairs"):
        coins = pair.split("/")
        if len(coins) != 2 or not all(coins) or coins[0] == coins[1]:
            yield ("copula", "pairs", pair), f"'{pair}' is no pair of coins; write for example BTC/ETH: 80%"
    seen: set[frozenset[str]] = set()
    for pair in section(copula, "pairs"):
        coin_set = frozenset(pair.split("/"))
        if coin_set in seen:
            yield ("copula", "pairs", pair), f"the pair '{pair}' is there twice"
        seen.add(coin_set)
    for name, asset in section(plain, "assets").items():
        if isinstance(asset, dict):
            initial, maintenance = asset.get("initial_margin"), asset.get("maintenance_margin")
            if isinstance(initial, str) and isinstance(maintenance, str) and _value(maintenance) > _value(initial):
                yield ("assets", name, "maintenance_margin"), f"maintenance margin {maintenance} is above initial margin {initial}"


def _value(text: str) -> float:
    try:
        return parse_quantity(text)[0]
    except ValueError:
        return 0.0


def pairs_of(bases: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Every two coins, once."""
    return itertools.combinations(bases, 2)


FORM: FileForm[WorldSpec] = FileForm(
    model=WorldSpec,
    code="W",
    what="a world",
    starts="`world: NAME` and needs model and assets",
    docs="docs/worlds.md",
    flag="--world names a file like config/worlds/calm.yaml",
    references=_references,
)
