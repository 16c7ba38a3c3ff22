"""The simulated world in the indexer's words (floor 8): each function is one body of `/v4`, `/sim` or the governance API."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from daemon.edges.dydx import wire
from daemon.edges.dydx.wire import Json, decimal_text
from daemon.simulation.bridges import TransferState
from daemon.simulation.chain import ChainStatus, chain_status, proposal_statuses
from daemon.simulation.markets import MarketState, Settlement
from daemon.simulation.paths import Bar
from daemon.simulation.subaccount import FillRecord, Holding, MovementRecord, OrderState, PaymentRecord, Subaccount
from daemon.simulation.world import World
from daemon.units import DAY_NS, MINUTE_NS, NS, iso

USDC_DIGITS = 6
DIGITS_MAX = 12  # more than any tick has: rounds away what binary floats add to a multiple of it
DEPOSIT_PERIOD_NS = 2 * DAY_NS


def usdc(value: float) -> float:
    """A balance with the digits that the chain keeps."""
    return round(value, USDC_DIGITS)


def market(state: MarketState) -> wire.Market:
    """One market of `/perpetualMarkets`: the published initial margin is the unscaled one."""
    change, volume, trades = state.day_ago()
    spec = state.spec
    digits = max(0, -int(spec.tick.normalize().as_tuple().exponent))
    return wire.Market(
        ticker=state.symbol,
        clob_pair_id=state.pair_id,
        status=state.status,
        oracle_price=state.oracle,
        next_funding_rate=round(state.next_rate, 12),
        initial_margin=state.initial_margin,
        maintenance_margin=state.maintenance_margin,
        open_interest=float(spec.open_interest),
        tick_size=spec.tick,
        step_size=spec.step,
        price_change_24h=round(change, digits + 4),
        volume_24h=round(volume, 4),
        trades_24h=trades,
        atomic_resolution=int(spec.step.normalize().as_tuple().exponent) - USDC_DIGITS,
        open_interest_lower_cap=spec.oi_lower_cap,
        open_interest_upper_cap=spec.oi_upper_cap,
        base_open_interest=float(spec.open_interest),
        default_funding_rate_1h=0.0,
        market_type="ISOLATED" if spec.isolated else "CROSS",
    )


def book(state: MarketState) -> dict[str, Json]:
    """The body of `/orderbooks/perpetualMarket/{ticker}`; prices and sizes are printed exactly, on tick and step."""
    bids, asks = state.book()
    sides: dict[str, Json] = {}
    for name, levels in (("bids", bids), ("asks", asks)):
        sides[name] = [{"price": decimal_text(price), "size": decimal_text(size)} for price, size in levels]
    return sides


def candles(state: MarketState, resolution: str, since: int | None, until: int | None, limit: int) -> list[Json]:
    """Bars of a resolution, newest first: `since` <= start < `until` (ns); the running one is included, as on the indexer."""
    minutes = wire.RESOLUTIONS_NS[resolution] // MINUTE_NS
    found: list[Json] = []
    group: list[Bar] = []
    for bar in reversed(state.all_bars()):
        if group and group[-1].minute // minutes != bar.minute // minutes:
            if len(found) + 1 >= limit:
                break
            _append_candle(found, state, resolution, group, minutes)
            group = []
        started = bar.minute // minutes * minutes * MINUTE_NS
        if since is not None and started < since:
            break
        if until is None or started < until:
            group.append(bar)
    if group and len(found) < limit:
        _append_candle(found, state, resolution, group, minutes)
    return found


def _append_candle(found: list[Json], state: MarketState, resolution: str, newest_first: list[Bar], minutes: int) -> None:
    first, last = newest_first[-1], newest_first[0]
    volume = sum(bar.volume for bar in newest_first)
    candle = wire.Candle(
        ticker=state.symbol,
        resolution=resolution,
        started_at=first.minute // minutes * minutes * MINUTE_NS,
        open=_on_tick(state, first.open),
        high=_on_tick(state, max(bar.high for bar in newest_first)),
        low=_on_tick(state, min(bar.low for bar in newest_first)),
        close=_on_tick(state, last.close),
        base_volume=round(volume, 9),
        usd_volume=round(sum(bar.volume * bar.close for bar in newest_first), 4),
        trades=sum(bar.trades for bar in newest_first),
        starting_open_interest=float(state.spec.open_interest),
        mid_open=round(first.open, 6),
        mid_close=round(last.close, 6),
    )
    found.append(candle.as_json())


def _on_tick(state: MarketState, price: float) -> float:
    tick = float(state.spec.tick)
    return round(round(price / tick) * tick, DIGITS_MAX)


def trades(state: MarketState, world: World, limit: int) -> list[Json]:
    """One trade a minute, newest first, at the minute's close."""
    found: list[Json] = []
    for bar in reversed(state.all_bars()):
        if len(found) == limit:
            break
        at = min((bar.minute + 1) * MINUTE_NS - NS, (world.start_s + world.second) * NS)
        found.append(
            {
                "id": hashlib.sha256(f"{state.symbol}/{bar.minute}".encode()).hexdigest()[:24],
                "side": "BUY" if bar.close >= bar.open else "SELL",
                "size": decimal_text(bar.volume),
                "price": decimal_text(_on_tick(state, bar.close)),
                "type": "LIMIT",
                "createdAt": iso(at),
                "createdAtHeight": str(world.height - (world.start_s + world.second - at // NS)),
            }
        )
    return found


def funding(symbol: str, settlement: Settlement) -> Json:
    """One element of `historicalFunding`."""
    return wire.FundingRow(
        ticker=symbol, rate=settlement.rate, price=settlement.price, effective_at=settlement.at, effective_at_height=settlement.height
    ).as_json()


def position(world: World, account: Subaccount, holding: Holding) -> wire.Position:
    """An open or closed position; unrealized PnL at the price that margin uses."""
    price = world.exchange.price(holding.market)
    return wire.Position(
        market=holding.market,
        status=holding.status,
        size=float(holding.size),
        entry_price=holding.entry_price,
        unrealized_pnl=usdc(float(holding.size) * (price - holding.entry_price)),
        realized_pnl=usdc(holding.realized_pnl + holding.net_funding),
        net_funding=usdc(holding.net_funding),
        max_size=float(holding.max_size),
        sum_open=float(holding.sum_open),
        sum_close=float(holding.sum_close),
        exit_price=holding.exit_price,
        created_at=holding.created_at,
        created_at_height=holding.created_height,
        closed_at=holding.closed_at,
        subaccount=account.number,
    )


def subaccount(world: World, account: Subaccount) -> wire.Subaccount:
    """A subaccount; its free collateral uses the base initial margin, as the indexer's does."""
    margins = world.exchange.margins(account)
    return wire.Subaccount(
        address=account.address,
        number=account.number,
        equity=usdc(margins.equity),
        free_collateral=usdc(margins.equity - margins.initial_published),
        positions={symbol: position(world, account, holding) for symbol, holding in account.holdings.items()},
        assets=assets(account),
        updated_at_height=account.updated_height,
        latest_processed_block_height=world.height,
    )


def assets(account: Subaccount) -> dict[str, wire.AssetPosition]:
    """The USDC balance; a zero balance is absent, as on the indexer."""
    balance = usdc(account.quote)
    return {"USDC": wire.AssetPosition(symbol="USDC", size=balance, subaccount=account.number)} if balance else {}


def order(world: World, account: Subaccount, state: OrderState) -> wire.Order:
    """An order as `/orders` shows it."""
    request = state.request
    short_term = request.time_in_force == "IOC"
    return wire.Order(
        id=state.id,
        client_id=request.client_id,
        ticker=request.market,
        side=request.side,
        size=request.size,
        price=request.limit_price,
        total_filled=state.filled,
        status=state.status,
        time_in_force=request.time_in_force,
        reduce_only=request.reduce_only,
        clob_pair_id=world.markets[request.market].pair_id,
        order_flags=0 if short_term else 64,
        good_til_block=state.window_height if short_term else None,
        good_til_block_time=None if short_term else min(request.good_til, 253_402_300_799 * NS),
        created_at_height=state.height,
        updated_at=state.accepted_at,
        updated_at_height=state.height,
        subaccount_id=hashlib.sha256(f"{account.address}/{account.number}".encode()).hexdigest()[:32],
        subaccount=account.number,
    )


def fill(account: Subaccount, record: FillRecord) -> Json:
    """One element of `fills`."""
    return wire.Fill(
        id=record.id,
        market=record.market,
        side=record.side,
        size=record.size,
        price=record.price,
        fee=usdc(record.fee),
        liquidity=record.liquidity,
        type=record.type,
        created_at=record.at,
        created_at_height=record.height,
        order_id=record.order_id,
        subaccount=account.number,
    ).as_json()


def payment(world: World, account: Subaccount, record: PaymentRecord) -> Json:
    """One element of `fundingPayments`."""
    return wire.FundingPayment(
        ticker=record.market,
        perpetual_id=world.markets[record.market].pair_id,
        created_at=record.at,
        created_at_height=record.height,
        oracle_price=record.price,
        size=record.size,
        rate=record.rate,
        payment=usdc(record.payment),
        subaccount=account.number,
    ).as_json()


def movement(account: Subaccount, record: MovementRecord) -> Json:
    """One element of `transfers`: the outside end has no subaccount."""
    incoming = record.amount > 0
    outside, inside = (f"outside-{record.party}", None), (account.address, account.number)
    sender, recipient = (outside, inside) if incoming else (inside, outside)
    return wire.Transfer(
        id=record.id,
        type="DEPOSIT" if incoming else "WITHDRAWAL",
        size=usdc(abs(record.amount)),
        created_at=record.at,
        created_at_height=record.height,
        sender=sender[0],
        sender_subaccount=sender[1],
        recipient=recipient[0],
        recipient_subaccount=recipient[1],
        transaction_hash=hashlib.sha256(record.id.encode()).hexdigest().upper(),
    ).as_json()


# --- the state API -----------------------------------------------------------------------------------------------------------------------


def order_reply(state: OrderState, duplicate: bool) -> dict[str, Json]:
    """The body of `POST /sim/orders` and of its lookup."""
    request = state.request
    return {
        "id": state.id,
        "client_id": request.client_id,
        "address": request.address,
        "subaccount": request.subaccount,
        "market": request.market,
        "side": request.side,
        "size": decimal_text(request.size),
        "limit_price": decimal_text(request.limit_price),
        "reduce_only": request.reduce_only,
        "time_in_force": request.time_in_force,
        "good_til": request.good_til,
        "status": state.status,
        "filled_size": decimal_text(state.filled),
        "average_price": None if state.average_price is None else decimal_text(round(state.average_price, 10)),
        "fee_usd": decimal_text(usdc(state.fee_usd)),
        "accepted_at": state.accepted_at,
        "duplicate": duplicate,
        "reason": state.reason,
    }


def transfer_reply(state: TransferState, now_ns: int, duplicate: bool) -> dict[str, Json]:
    """The body of `POST /sim/transfers` and of its lookup; `expected_at` moves while the route stands still."""
    request = state.request
    return {
        "client_id": request.client_id,
        "route": request.route,
        "from": state.source,
        "to": state.destination,
        "amount": decimal_text(request.amount),
        "fee": decimal_text(state.fee),
        "status": state.status,
        "requested_at": state.requested_at,
        "expected_at": state.credited_at if state.credited_at is not None else now_ns + max(0, state.debit_ns) + max(0, state.remaining_ns),
        "credited_at": state.credited_at,
        "times": dict(state.times),
        "reason": state.reason,
        "address": request.address,
        "subaccount": request.subaccount,
        "duplicate": duplicate,
    }


def chains(world: World) -> dict[str, Json]:
    """The body of `/sim/chains`."""
    bodies: dict[str, Json] = {}
    for name, spec in world.scenario.chains.items():
        bodies[name] = _chain(chain_status(name, spec, world.shocks, world.start_s, world.second))
    return {"time": iso(world.now_ns), "chains": bodies}


def _chain(status: ChainStatus) -> dict[str, Json]:
    return {
        "height": status.height,
        "block_time": iso(status.block_at),
        "sequencer_up": status.sequencer_up,
        "finality_delay_s": status.finality_ns / NS,
        "gas_price_gwei": status.gas_price_gwei,
        "tx_cost_usd": status.tx_cost_usd,
        "tx_per_block": status.tx_per_block,
    }


def routes(world: World) -> dict[str, Json]:
    """The body of `/sim/routes`: `capacity_usd` is what the route would take now."""
    bodies: dict[str, Json] = {}
    bridges = world.bridges
    for name, spec in world.scenario.routes.items():
        typical, slow = bridges.eta_ns(name, world.shocks, world.second)
        bodies[name] = {
            "from": spec.source,
            "to": spec.destination,
            "open": bridges.is_open(name, world.shocks, world.second),
            "fee": decimal_text(spec.fee),
            "fee_usd": decimal_text(bridges.fixed_fee_usd(spec, world.shocks, world.second)),
            "eta_s": typical / NS,
            "eta_p95_s": slow / NS,
            "capacity_usd": decimal_text(bridges.capacity(name, world.shocks, world.second)),
            "in_flight_usd": decimal_text(bridges.in_flight(name)),
            "stuck_usd": decimal_text(bridges.stuck(name)),
            "locked": bridges.is_locked(name, world.shocks, world.second),
        }
    return {"time": iso(world.now_ns), "routes": bodies}


def oracles(world: World) -> dict[str, Json]:
    """The body of `/sim/oracles`: what the observer of a real chain reads beside the price. `conf_usd` null: there is no price."""
    bodies: dict[str, Json] = {}
    for symbol, market in world.markets.items():
        feed = market.feed
        bodies[symbol] = {
            "kind": feed.spec.kind,
            "price": decimal_text(feed.price),
            "published_at": world.started_ns // NS * NS + feed.published_s * NS,
            "conf_usd": decimal_text(feed.conf) if feed.has_index else None,
            "sources": feed.sources,
        }
    return {"time": iso(world.now_ns), "oracles": bodies}


def buffers(world: World) -> dict[str, Json]:
    """The body of `/sim/buffers`."""
    return {"time": iso(world.now_ns), "buffers": {chain: decimal_text(amount) for chain, amount in world.bridges.buffers.items()}}


def venue(world: World) -> dict[str, Json]:
    """The body of `/sim/venue`."""
    exchange = world.exchange
    body: dict[str, Json] = {
        "time": iso(world.now_ns),
        "model": exchange.venue.model,
        "insurance_fund_usd": decimal_text(usdc(exchange.insurance_fund)),
        "insurance_funds_usd": {name or "cross": decimal_text(usdc(amount)) for name, amount in exchange.ledger.insurance.items()},
        "withdrawals_open": exchange.withdrawals_open() and not world.halted,
        "withdrawals_unblocked_at_height": str(exchange.gate_until_height),
        "withdrawal_capacity_usd": decimal_text(usdc(exchange.withdrawal_capacity())),
        "liquidations": exchange.liquidations,
    }
    if exchange.venue.model == "hyperliquid":
        body["mark_prices"] = {symbol: decimal_text(round(state.mark, DIGITS_MAX)) for symbol, state in world.markets.items()}
        body["margin_tables"] = {
            symbol: [
                {"lowerBound": decimal_text(bound), "maxLeverage": decimal_text(leverage)}
                for bound, leverage in zip(state.bounds, state.leverages, strict=True)
            ]
            for symbol, state in world.markets.items()
        }
    return body


def money(world: World) -> dict[str, Json]:
    """The body of `/sim/money`: everybody's balances; `total_usd` never changes."""
    found = world.money()
    body: dict[str, Json] = {f"{name}_usd": decimal_text(usdc(amount)) for name, amount in found.balances().items()}
    return {"time": iso(world.now_ns)} | body | {"total_usd": decimal_text(usdc(found.total))}


def proposals(world: World, status: str | None) -> dict[str, Json]:
    """The body of `/cosmos/gov/v1/proposals`, all or those of a status."""
    found: list[Json] = []
    for proposal in proposal_statuses(world.scenario.proposals, world.start_s, world.second):
        if status is not None and proposal.status != status:
            continue
        found.append(
            {
                "id": str(proposal.spec.id),
                "messages": [{"@type": message} for message in proposal.spec.messages],
                "status": proposal.status,
                "submit_time": iso(proposal.voting_start),
                "deposit_end_time": iso(proposal.voting_start + DEPOSIT_PERIOD_NS),
                "voting_start_time": iso(proposal.voting_start),
                "voting_end_time": iso(proposal.voting_end),
                "title": proposal.spec.title,
                "summary": proposal.spec.summary,
                "expedited": proposal.spec.expedited,
            }
        )
    return {"proposals": found, "pagination": {"next_key": None, "total": str(len(found))}}


def log(world: World, after: int, kinds: Iterable[str]) -> dict[str, Json]:
    """The body of `/sim/log`: entries after a sequence number, of some kinds or of all."""
    wanted = set(kinds)
    entries: list[Json] = []
    for entry in world.log:
        if entry.seq > after and (not wanted or entry.kind in wanted):
            entries.append(
                {
                    "seq": entry.seq,
                    "at": entry.at,
                    "kind": entry.kind,
                    "client_id": entry.client_id,
                    "outcome": entry.outcome,
                    "reply": entry.reply,
                    "request": {key: value if isinstance(value, str | int | bool) else str(value) for key, value in entry.request.items()},
                    "detail": dict(entry.detail),
                }
            )
    return {"entries": entries}
