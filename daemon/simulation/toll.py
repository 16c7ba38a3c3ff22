"""What a course of a simulated world cost the accounts in it (floor 5): second by second while it runs, and as figures at its end.

    tally = Tally(world)
    ...                         # after every second of the world:
    tally.follow()
    toll = tally.toll()
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from daemon.simulation.bridges import FLYING
from daemon.simulation.subaccount import Subaccount
from daemon.simulation.world import LogEntry, World
from daemon.units import NS, iso
from daemon.world import margin

FORCED = ("liquidated", "deleveraged", "backstop")  # what the venue does to an account that is under water
SEVERAL_S = 60  # forced fills of one account no further apart than this are one liquidation
BY_OTHERS = ("external_close", "auto_deleveraged", "final_settlement")  # a position that is closed although the account is well
STUCK = ("STUCK", "LOST")  # debited, and nobody says that it will arrive
MOVING = tuple(FLYING - {*STUCK})  # on its way, there or back
NO_BLOW = ("funding", "transfer_")  # how the happenings begin that are no blow

Json = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blow:
    """Something the world did to an account: forced fills in a row are one. `size` base units, `loss_usd` against margin's price."""

    kind: str
    at: int
    account: str
    market: str
    size: float
    price: float
    loss_usd: float
    fills: int = 1
    cause: str = ""
    until: int = 0

    def as_json(self) -> Json:
        """The blow as `reefd scenario run` prints it."""
        return {
            "kind": self.kind, "at": iso(self.at), "until": iso(self.until), "account": self.account, "market": self.market,
            "size": _known(self.size), "price": _known(self.price), "loss_usd": self.loss_usd, "fills": self.fills, "cause": self.cause,
        }  # fmt: skip


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Toll:
    """What one course came to, USD. pnl = equity, buffers and money on its way at the end less the start; stuck money is not in it.

    `liquidation_loss_usd`: fees of forced fills, their distance from the price that margin uses, and what a backstop kept;
    `funding_usd` > 0 was received;
    `margin_ratio_max` is infinite once equity was used up.
    """

    liquidations: int
    liquidation_loss_usd: float
    external_closes: int
    pnl_usd: float
    equity_start_usd: float
    equity_end_usd: float
    equity_min_usd: float
    margin_ratio_start: float
    margin_ratio_max: float
    margin_ratio_end: float
    fees_usd: float
    transfer_fees_usd: float
    funding_usd: float
    in_flight_usd: float
    stuck_usd: float
    buffers_end_usd: float
    liquidated_at: int | None  # ns, the first forced fill
    blows: tuple[Blow, ...]

    def figures(self) -> Mapping[str, float]:
        """Every number by its name, as an `expect:` block names it."""
        return {
            name: float(getattr(self, name))
            for name in (
                "liquidations", "liquidation_loss_usd", "external_closes", "pnl_usd", "equity_start_usd", "equity_end_usd",
                "equity_min_usd", "margin_ratio_start", "margin_ratio_max", "margin_ratio_end", "fees_usd", "transfer_fees_usd",
                "funding_usd", "in_flight_usd", "stuck_usd", "buffers_end_usd",
            )
        }  # fmt: skip

    def as_json(self) -> Json:
        """The figures; counts are whole numbers, a ratio beyond measure (equity used up) is null."""
        found: Json = {name: value if math.isfinite(value) else None for name, value in self.figures().items()}
        found |= {"liquidations": self.liquidations, "external_closes": self.external_closes}
        found["liquidated_at"] = None if self.liquidated_at is None else iso(self.liquidated_at)
        found["happened"] = [blow.as_json() for blow in self.blows]
        return found


@dataclass(slots=True)
class Tally:
    """Follows one world; `ratios` has the worst margin ratio of its accounts at each second from 0 on."""

    world: World
    ratios: array[float] = field(default_factory=lambda: array("d"))
    blows: list[Blow] = field(default_factory=list)
    _seq: int = 0
    _start: float = 0.0
    _equity_start: float = 0.0
    _equity_min: float = math.inf
    _backstop_at: int = -1
    _stood: dict[tuple[str, int], tuple[object, tuple[float, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._equity_start = self._watch()
        self._start = self._equity_start + self._buffers() + self._moving()

    def follow(self) -> None:
        """Takes note of the second that the world reached, and of what happened in it."""
        news = []
        for entry in reversed(self.world.log):
            if entry.seq <= self._seq:
                break
            news.append(entry)
        for entry in reversed(news):
            self._seq = entry.seq
            if entry.outcome == "world" and not entry.kind.startswith(NO_BLOW):
                self._note(entry)
        self._watch()

    def ratio_at(self, at: int) -> float:
        """The worst margin ratio as of a time (ns): that of the last second up to it."""
        second = (at - self.world.start_s * NS) // NS
        return self.ratios[min(max(0, second), len(self.ratios) - 1)]

    def _watch(self) -> float:
        """Keeps the worst ratio of the second; the equity of all accounts."""
        worst, total = 0.0, 0.0
        for key, account in self.world.exchange.subaccounts.items():
            equity, ratio = self._stand(key, account)
            worst = max(worst, ratio)
            total += equity
        self.ratios.append(worst)
        self._equity_min = min(self._equity_min, total)
        return total

    def _stand(self, key: tuple[str, int], account: Subaccount) -> tuple[float, float]:
        """Equity and margin ratio of an account; reckoned again only when something that they hang on has changed."""
        held = account.holdings.items()
        price, markets = self.world.exchange.price, self.world.markets
        hangs_on = (account.quote, [(holding.size, price(market), markets[market].maintenance_margin) for market, holding in held])
        known = self._stood.get(key)
        if known is not None and known[0] == hangs_on:
            return known[1]
        margins = self.world.exchange.margins(account)
        found = margins.equity, margin.margin_ratio(margins.equity, margins.maintenance)
        self._stood[key] = hangs_on, found
        return found

    def _note(self, entry: LogEntry) -> None:
        detail = entry.detail
        market = detail.get("market", "")
        size, price = float(detail.get("size", "0")), float(detail.get("price", "nan"))
        fee = float(detail.get("fee", "0"))
        cause = detail.get("cause", "")
        account = f"{detail.get('address', '')}/{detail.get('subaccount', '')}"
        # Who closed pays the distance from the price that margin uses; an external close by hand or ADL says its side by the price alone.
        apart = abs(price - self.world.exchange.price(market)) * size if market and price == price else 0.0
        forced = entry.kind in FORCED
        loss = apart + fee + self._taken_over(entry)
        blow = Blow(
            kind=entry.kind, at=entry.at, account=account, market=market, size=size, price=price, loss_usd=loss, cause=cause,
            until=entry.at,
        )  # fmt: skip
        before = self._last_forced(account) if forced else None
        if before is None or entry.at - self.blows[before].until > SEVERAL_S * NS:
            self.blows.append(blow)
            return
        old = self.blows[before]
        same = old.market == market
        self.blows[before] = Blow(
            kind=old.kind if old.kind == entry.kind else "liquidated", at=old.at, account=account,
            market=market if same else "several", size=old.size + size if same else math.nan,
            price=(old.price * old.size + price * size) / (old.size + size) if same and old.size + size else math.nan,
            loss_usd=old.loss_usd + loss, fills=old.fills + 1, cause=cause, until=entry.at,
        )  # fmt: skip

    def _taken_over(self, entry: LogEntry) -> float:
        """USD that a backstop keeps: what the account still was worth, told with each of its positions and counted with the first."""
        if entry.kind != "backstop" or entry.at == self._backstop_at:
            return 0.0
        self._backstop_at = entry.at
        return max(0.0, float(entry.detail.get("value", "0")))

    def _last_forced(self, account: str) -> int | None:
        newest_first = reversed(list(enumerate(self.blows)))
        return next((i for i, blow in newest_first if blow.kind in FORCED and blow.account == account), None)

    def _buffers(self) -> float:
        return float(sum(self.world.bridges.buffers.values()))

    def _moving(self, statuses: Sequence[str] = MOVING) -> float:
        return float(sum(t.arriving for t in self.world.bridges.transfers.values() if t.status in statuses))

    def toll(self) -> Toll:
        """The figures as of the last second."""
        accounts = self.world.exchange.subaccounts.values()
        equity = sum(self.world.exchange.margins(account).equity for account in accounts)
        forced = [blow for blow in self.blows if blow.kind in FORCED]
        ours = [fill for account in accounts for fill in account.fills if fill.type == "LIMIT"]
        transfers = self.world.bridges.transfers.values()
        return Toll(
            liquidations=len(forced),
            liquidation_loss_usd=math.fsum(blow.loss_usd for blow in forced),
            external_closes=sum(blow.kind in BY_OTHERS for blow in self.blows),
            pnl_usd=equity + self._buffers() + self._moving() - self._start,
            equity_start_usd=self._equity_start,
            equity_end_usd=equity,
            equity_min_usd=self._equity_min,
            margin_ratio_start=self.ratios[0],
            margin_ratio_max=max(self.ratios),
            margin_ratio_end=self.ratios[-1],
            fees_usd=math.fsum(fill.fee for fill in ours),
            transfer_fees_usd=float(sum(t.fee for t in transfers if t.status in ("CREDITED", *MOVING))),
            funding_usd=math.fsum(payment.payment for account in accounts for payment in account.payments),
            in_flight_usd=self._moving(),
            stuck_usd=self._moving(STUCK),
            buffers_end_usd=self._buffers(),
            liquidated_at=min((blow.at for blow in forced), default=None),
            blows=tuple(self.blows),
        )
