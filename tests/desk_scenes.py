"""What a desk shows in an eventful night, as views: a funding spike under way, an approval that waits, and everything that can be wrong.

Every function takes `at`, seconds since 1970 of the daemon's clock, so that ages and countdowns are those of the reader's own clock.
"""

from __future__ import annotations

import math
from dataclasses import replace

from daemon.service.views import (
    AccountView,
    ActView,
    CashView,
    Condition,
    DeliveryView,
    EndpointView,
    EntityView,
    EntryView,
    EpisodeView,
    FeedView,
    GateAnswer,
    GateView,
    HedgeView,
    InstanceView,
    LegView,
    Moment,
    NeedView,
    NetView,
    Now,
    Outlook,
    PositionView,
    ReadingView,
    RunbookView,
    RunDetail,
    RunView,
    Series,
    StressView,
    ThresholdView,
    UpcomingView,
    WhyNode,
    WhyView,
)
from daemon.units import NS, iso

HOSTILE = "<script>alert(\"x\")</script> & 'quoted'"
DIGEST = "9f2c41d07be6a1134c0d58e2f7a9b3c6"
PRICES = {"BTC-USD": 61_240.0, "ETH-USD": 2_970.0, "HYPE-USD": 41.2}


def stamp(at: float) -> str:
    """A time as the views write it."""
    return iso(int(at * 1000) * (NS // 1000))


def reading(signal: str, value: float | None, unit: str, shown: str, age_s: float | None = 2.0, role: str = "observed") -> ReadingView:
    """One reading."""
    return ReadingView(signal=signal, value=value, unit=unit, shown=shown, age_s=age_s, role="derived" if role == "derived" else "observed")


# --- the world ----------------------------------------------------------------------------------------------------------


def feeds(at: float) -> tuple[FeedView, ...]:
    """Five polls, one of which fails."""
    ages = {"dydx.height": 0.8, "dydx.markets": 1.9, "dydx.book": 1.4, "dydx.account": 2.6}
    fine = tuple(
        FeedView(source=source, state="ok", every_s=1.0 if source == "dydx.height" else 2.0, age_s=age, failures=0, skipped=0, reason="")
        for source, age in ages.items()
    )
    why = "https://bridge.example/v1/routes answered 503 Service Unavailable"
    return (*fine, FeedView(source="bridge.routes", state="failing", every_s=5.0, age_s=94.0, failures=18, skipped=1, reason=why))


def market(symbol: str, at: float, venue: str = "dydx", price: float | None = None) -> EntityView:
    """A market with what is read of it; HYPE-USD pays, and its gate stands closed."""
    paid = 0.00084 if symbol == "HYPE-USD" else 0.000012
    worth = price or PRICES.get(symbol, 12.5)
    readings = (
        reading("oracle_price", worth, "price", f"{worth:,.2f} USD/base", 1.9),
        reading("mid_price", worth * 1.0006, "price", f"{worth * 1.0006:,.2f} USD/base", 1.4, "derived"),
        reading("bid_price", worth * 1.0002, "price", f"{worth * 1.0002:,.2f} USD/base", 1.4),
        reading("ask_price", worth * 1.0010, "price", f"{worth * 1.0010:,.2f} USD/base", 1.4),
        reading("spread", 0.0008, "ratio", "0.08%", 1.4, "derived"),
        reading("depth", 412_000.0, "USD", "412,000 USD", 1.4, "derived"),
        reading("funding_rate", paid, "rate/h", f"{paid:.4%}/h", 1_860.0),
        reading("predicted_funding_rate", paid * 0.9, "rate/h", f"{paid * 0.9:.4%}/h", 12.0),
        reading("next_funding_in", 1_740.0, "s", "29m", 0.0, "derived"),
        reading("oracle_divergence", 0.0006, "ratio", "0.06%", 1.4, "derived"),
        reading("open_interest", 18_400.0, "base", "18,400 base", 1.9),
        reading("index_price", None, "price", "unknown", None),
    )
    shut = symbol == "HYPE-USD"
    why = "closed by funding-spike since 6 minutes: paying 0.084 %/h" if shut else "nothing closes it and its readings are fresh"
    return EntityView(
        kind="market",
        id=f"{venue}:{symbol}",
        labels={"bucket": "income" if shut else "core"},
        links={"venue": venue, "chain": "dydx"},
        readings=readings,
        gate=GateAnswer(market=f"{venue}:{symbol}", open=not shut, why=why, at=stamp(at)),
    )


def route(name: str, eta: str, stuck: bool, at: float) -> EntityView:
    """A route with its readings."""
    readings = (
        reading("route_up", 0.0 if stuck else 1.0, "bool", "false" if stuck else "true", 94.0 if stuck else 4.0),
        reading("route_eta", 1_200.0, "s", eta, 94.0 if stuck else 4.0),
        reading("route_fee", 0.001, "ratio", "0.1%", 4.0),
        reading("route_capacity", 1_000_000.0, "USD", "1,000,000 USD", 4.0),
    )
    return EntityView(kind="route", id=name, labels={}, links={"from": "ethereum", "to": "dydx"}, readings=readings)


def wave(at: float, middle: float, swing: float, *, gap: tuple[int, int] = (130, 150), points: int = 360) -> tuple[float | None, ...]:
    """A minute-by-minute course with a gap in which nothing was known."""
    return tuple(
        None if gap[0] <= i < gap[1] else middle + swing * (math.sin(i / 23.0) + 0.4 * math.sin(i / 5.0 + 1.0)) for i in range(points)
    )


def course(name: str, entity: str, unit: str, values: tuple[float | None, ...], at: float, **bounds: float | None) -> Series:
    """A series that ends now, a point each minute."""
    times = tuple(at - 60.0 * (len(values) - 1 - i) for i in range(len(values)))
    return Series(
        name=name, entity=entity, unit=unit, times=times, values=values, threshold=bounds.get("threshold"), clears=bounds.get("clears")
    )


def spike(at: float) -> tuple[float | None, ...]:
    """Funding that rose to 0.084 %/h forty minutes ago, unknown for a while before."""
    low = wave(at, 0.00012, 0.00006, gap=(180, 205))
    return tuple(0.00084 if i >= 320 else 0.00056 if i >= 300 else value for i, value in enumerate(low))


# --- what was decided ---------------------------------------------------------------------------------------------------


def tree(paid: float = 0.00084) -> WhyNode:
    """The trigger of funding-spike with what every part came to."""

    def node(text: str, shown: str, value: float | None, unit: str, **more: object) -> WhyNode:
        return replace(WhyNode(text=text, shown=shown, value=value, unit=unit, role="derived"), **more)  # type: ignore[arg-type]

    hot = paid > 0.0005
    rate = node("funding_rate", f"{paid:.3%}/h", paid, "rate/h", role="observed", signal="funding_rate", age_s=1_860.0)
    sign = node("sign(size)", "1", 1.0, "1", kids=(node("size", "1,350 base", 1_350.0, "base", role="observed", signal="size", age_s=2.6),))
    first = node(
        "paid > threshold",
        "TRUE" if hot else "FALSE",
        2.0 if hot else 0.0,
        "truth",
        distance=paid - 0.0005,
        distance_shown=f"{abs(paid - 0.0005):.3%}/h {'above' if hot else 'below'}",
        kids=(
            node("paid", f"{paid:.3%}/h", paid, "rate/h", kids=(rate, sign)),
            node("threshold", "0.05%/h", 0.0005, "rate/h", role="param"),
        ),
    )
    second = node(
        "rate > quantile(rate, 99%, lookback)",
        "TRUE",
        2.0,
        "truth",
        distance=0.00052,
        distance_shown="0.052%/h above",
        kids=(node("quantile(rate, 99%, lookback)", "0.032%/h", 0.00032, "rate/h"),),
    )
    whole = "paid > threshold and rate > quantile(rate, 99%, lookback)"
    return node(whole, "TRUE" if hot else "FALSE", 2.0 if hot else 0.0, "truth", kids=(first, second))


def why(runbook: str, entity: str, at: float) -> WhyView:
    """Firing on HYPE-USD, not firing elsewhere."""
    hot = "HYPE" in entity
    guard = WhyNode(
        text="oracle_divergence < 50bps",
        shown="TRUE",
        value=2.0,
        unit="truth",
        role="derived",
        distance=-0.0044,
        distance_shown="0.44% below",
        kids=(WhyNode(text="oracle_divergence", shown="0.06%", value=0.0006, unit="ratio", role="derived"),),
    )
    blind = WhyNode(
        text="venue_up_for > 10m",
        shown="UNKNOWN",
        value=1.0,
        unit="truth",
        role="derived",
        kids=(WhyNode(text="venue_up_for", shown="unknown", value=None, unit="s", role="observed", signal="venue_up_for"),),
    )
    ends = WhyNode(
        text="paid < 40% * threshold",
        shown="FALSE",
        value=0.0,
        unit="truth",
        role="derived",
        distance=0.00064,
        distance_shown="0.064%/h above",
    )
    sentence = (
        "firing since 6 minutes: paid is 0.084%/h, 0.034%/h above 0.05%/h"
        if hot
        else "not firing: paid is 0.0012%/h, 0.0488%/h below 0.05%/h"
    )
    return WhyView(
        runbook=runbook,
        title="Funding spike - stop adding, and shrink where shrinking pays",
        entity=entity,
        stage="armed",
        state="firing" if hot else "inactive",
        sentence=sentence,
        since=stamp(at - 372) if hot else None,
        held_s=180.0 if hot else 0.0,
        hold_s=180.0,
        conditions=(
            Condition(name="when", verdict="TRUE" if hot else "FALSE", tree=tree() if hot else tree(0.000012)),
            Condition(name="until", verdict="FALSE", tree=ends),
            Condition(name="guard", verdict="TRUE", tree=guard),
            Condition(name="guard", verdict="UNKNOWN", tree=blind),
        ),
        held_back=() if hot else ("inhibited by oracle-divergence on dydx:BTC-USD since 11 minutes",),
        last_run=run_id(at) if hot else "",
        last_status="running" if hot else "",
        last_reason="",
        lines=(sentence,),
    )


def run_id(at: float, symbol: str = "HYPE-USD", runbook: str = "funding-spike", ago_s: float = 372.0, number: int = 1) -> str:
    """A run's id, as the engine makes it; whole seconds, so that it stays itself."""
    return f"{runbook}/dydx:{symbol}/{int(at - ago_s) * NS}/{number}"


def running(at: float) -> tuple[RunView, ...]:
    """Two runs under way: HYPE shrinks, ETH waits for an approval."""
    hype = run_id(at)
    eth = run_id(at, "ETH-USD", ago_s=71.0)
    head = RunView(
        run_id=hype,
        runbook="funding-spike",
        entity="dydx:HYPE-USD",
        episode=hype.rpartition("/")[0],
        started_at=stamp(at - 372),
        ended_at=None,
        status="running",
        reason="",
        shadow=False,
        on_clear=False,
        asked_usd=18_540.0,
        filled_usd=13_872.4,
        cost_usd=9.71,
        waiting="lookup: slice 4 has no definite answer",
        unknown_outcomes=1,
    )
    second = replace(
        head,
        run_id=eth,
        entity="dydx:ETH-USD",
        episode=eth.rpartition("/")[0],
        started_at=stamp(at - 71),
        asked_usd=24_354.0,
        filled_usd=0.0,
        cost_usd=0.0,
        waiting="approval of desk-lead until the plan lapses",
        unknown_outcomes=0,
    )
    return head, second


def recent(at: float) -> tuple[RunView, ...]:
    """Runs that ended, newest first, one of each kind of end."""
    ends = [
        ("margin-low", "dydx", "done", "", 12_480.0, 12_480.0, 6.2),
        ("oracle-divergence", "dydx:BTC-USD", "shadow", "would have closed the gate", 0.0, 0.0, 0.0),
        ("thin-book", "dydx:HYPE-USD", "blocked", "account.turnover_per_hour: 512,000 USD would be over 500,000 USD", 22_000.0, 0.0, 0.0),
        ("buffer-low", "dydx", "unknown", "the transfer was sent and never shown", 50_000.0, 0.0, 0.0),
        ("funding-spike", "dydx:ETH-USD", "skipped", "nobody answered within 2m", 21_900.0, 0.0, 0.0),
        ("route-down", "cctp", "failed", "503 after 3 attempts", 0.0, 0.0, 0.0),
        ("funding-spike", "dydx:BTC-USD", "aborted", "the size was changed by somebody else", 30_600.0, 15_300.0, 11.4),
    ]
    views = []
    for i, (runbook, entity, status, reason, asked, filled, cost) in enumerate(ends):
        began = at - 1_900 - 5_400 * i
        run = f"{runbook}/{entity}/{int(began) * NS}/1"
        views.append(
            RunView(
                run_id=run,
                runbook=runbook,
                entity=entity,
                episode=run.rpartition("/")[0],
                started_at=stamp(began),
                ended_at=stamp(began + 94),
                status=status,
                reason=reason,
                shadow=status == "shadow",
                on_clear=False,
                asked_usd=asked,
                filled_usd=filled,
                cost_usd=cost,
                waiting="",
                unknown_outcomes=1 if status == "unknown" else 0,
            )
        )
    return tuple(views)


def many_runs(at: float, count: int) -> tuple[RunView, ...]:
    """A long history: the recent ends, again and again."""
    ends = recent(at)
    views = []
    for i in range(count):
        began = at - 20_000 - 300.0 * i
        end = ends[i % len(ends)]
        run = f"{end.runbook}/{end.entity}/{int(began) * NS}/1"
        views.append(replace(end, run_id=run, episode=run.rpartition("/")[0], started_at=stamp(began), ended_at=stamp(began + 94.0)))
    return tuple(views)


def moments(at: float) -> tuple[Moment, ...]:
    """What happened to the run on HYPE-USD: about twenty records."""
    run = run_id(at)
    told: list[tuple[float, str, str, str, tuple[str, ...], str]] = [
        (372, "TriggerChanged", "", "Fired", ("paid 0.084%/h > threshold 0.05%/h, held for 3m",), "bad"),
        (372, "RunStarted", "", "Run started", ("readings: size 1,800, funding_rate 0.084%/h",), "plain"),
        (372, "LocksTaken", "", "Locked account dydx", (), "plain"),
        (371, "StepStarted", "stop-adding", "Step stop-adding", (), "plain"),
        (371, "GateChanged", "stop-adding", "Gate of dydx:HYPE-USD closed", ("no strategy may open here",), "good"),
        (371, "StepFinished", "stop-adding", "stop-adding: done", (), "good"),
        (370, "StepStarted", "shrink", "Step shrink", ("funding_breakeven 1h48m < 4h: shrinking pays",), "plain"),
        (
            370,
            "StepPlanned",
            "shrink",
            "Plan: SELL 450 dydx:HYPE-USD in 4 slices",
            ("18,540 USD, reduce-only", "fees about 9.27 USD"),
            "plain",
        ),
        (370, "ActionRequested", "shrink", "Slice 1: SELL 112.5 at 41.14 or better", ("intent on disk before it is sent",), "wait"),
        (369, "ActionFinished", "shrink", "Slice 1: filled 112.5 at 41.19", ("mid 41.22, cost 2.41 USD",), "good"),
        (359, "ActionRequested", "shrink", "Slice 2: SELL 112.5 at 41.12 or better", (), "wait"),
        (358, "ActionFinished", "shrink", "Slice 2: failed", ("503 from the venue: certainly nothing happened",), "bad"),
        (358, "RetryScheduled", "shrink", "Slice 2 again in 2s", ("attempt 2 of 3",), "wait"),
        (356, "ActionRequested", "shrink", "Slice 2, attempt 2: SELL 112.5 at 41.12 or better", (), "wait"),
        (355, "ActionFinished", "shrink", "Slice 2: filled 112.5 at 41.17", ("mid 41.20, cost 3.38 USD",), "good"),
        (345, "ActionRequested", "shrink", "Slice 3: SELL 112.5 at 41.10 or better", (), "wait"),
        (344, "ActionFinished", "shrink", "Slice 3: filled 111.7 of 112.5 at 41.15", ("mid 41.19, cost 3.92 USD",), "good"),
        (334, "ActionRequested", "shrink", "Slice 4: SELL 113.3 at 41.08 or better", (), "wait"),
        (
            314,
            "ActionFinished",
            "shrink",
            "Slice 4: UNKNOWN",
            ("no answer within 20s: it may have filled; it is looked up, never resent",),
            "bad",
        ),
        (313, "StepWaiting", "shrink", "Waits for the lookup of slice 4", ("until the venue shows it, or it must have expired",), "wait"),
        (12, "SizeChanged", "shrink", "Size of dydx:HYPE-USD is 1,463", ("explained by our own fills",), "plain"),
    ]
    return tuple(
        Moment(
            seq=48_100 + i,
            at=stamp(at - ago),
            kind=kind,
            step=step,
            title=title,
            lines=lines,
            tone=tone,  # type: ignore[arg-type]
            body={"type": kind, "run_id": run, "step": step, "at": int((at - ago) * 1e9), "nested": {"size": "112.5", "text": HOSTILE}},
        )
        for i, (ago, kind, step, title, lines, tone) in enumerate(told)
    )


def detail(head: RunView, at: float) -> RunDetail:
    """A run with its trace."""
    frame = {"size": 1_800.0, "funding_rate": 0.00084, "oracle_price": 41.2}
    return RunDetail(head=head, why=tree(), frame=frame, moments=moments(at), source_digest="c0ffee" * 10 + "beef")


def runbooks(at: float) -> tuple[RunbookView, ...]:
    """The shipped set in several conditions."""
    told = [
        (
            "funding-spike",
            "Funding spike - stop adding, and shrink where shrinking pays",
            "armed",
            "position",
            {"firing": 2, "inactive": 1},
            "",
        ),
        ("margin-low", "Margin low - shrink before the venue does", "armed", "account", {"inactive": 1, "pending": 1}, ""),
        ("oracle-divergence", "Oracle and book disagree - stop opening", "shadow", "market", {"firing": 1, "inactive": 2}, ""),
        (
            "thin-book",
            "Thin book - stop adding",
            "armed",
            "position",
            {"inactive": 3},
            f"until {stamp(at + 2_700)} by ana: known maintenance",
        ),
        ("buffer-low", "Buffer low - bring collateral", "armed", "account", {"inactive": 1, "unknown": 1}, ""),
        ("route-down", "Route down - use the other one", "armed", "route", {"clearing": 1, "inactive": 1}, ""),
        ("sequencer-down", "Sequencer down", "disabled", "chain", {}, ""),
    ]
    return tuple(
        RunbookView(
            id=name,
            title=title,
            owner="perps-desk",
            stage=stage,
            path=f"runbooks/{name}.yaml",
            digest="5e" * 32,
            scope=scope,
            instances=instances,
            paused=paused,
            spent_day_usd=18_540.0 if name == "funding-spike" else 0.0,
            per_day_usd=60_000.0,
            runs_day=2 if name == "funding-spike" else 0,
            runs_max=6,
            last_run=run_id(at) if name == "funding-spike" else "",
            last_status="running" if name == "funding-spike" else "",
        )
        for name, title, stage, scope, instances, paused in told
    )


def instances(runbook: str, at: float) -> tuple[InstanceView, ...]:
    """Its instances: firing, firing, inactive and lacking a reading."""
    base = InstanceView(
        runbook=runbook,
        entity="dydx:HYPE-USD",
        state="firing",
        since=stamp(at - 372),
        unknown=(),
        running=(run_id(at),),
        last_run=run_id(at),
        last_status="running",
        last_reason="",
        cooldown_until=None,
        paused="",
        spent_day_usd=13_872.4,
    )
    eth = run_id(at, "ETH-USD", ago_s=71.0)
    return (
        base,
        replace(base, entity="dydx:ETH-USD", since=stamp(at - 71), running=(eth,), last_run=eth, spent_day_usd=0.0),
        replace(
            base,
            entity="dydx:BTC-USD",
            state="inactive",
            since=None,
            unknown=("venue_up_for",),
            running=(),
            last_run="",
            last_status="",
            spent_day_usd=0.0,
            cooldown_until=stamp(at + 900),
        ),
    )


def episodes(at: float) -> tuple[EpisodeView, ...]:
    """Three episodes, two of them not over."""
    hype, eth = running(at)
    return (
        EpisodeView(
            id=eth.episode,
            runbook="funding-spike",
            entity=eth.entity,
            pending_at=stamp(at - 251),
            fired_at=stamp(at - 71),
            cleared_at=None,
            ended="",
            runs=(eth.run_id,),
        ),
        EpisodeView(
            id=hype.episode,
            runbook="funding-spike",
            entity=hype.entity,
            pending_at=stamp(at - 552),
            fired_at=stamp(at - 372),
            cleared_at=None,
            ended="",
            runs=(hype.run_id,),
        ),
        EpisodeView(
            id=f"margin-low/dydx/{int(at - 1_900) * NS}",
            runbook="margin-low",
            entity="dydx",
            pending_at=None,
            fired_at=stamp(at - 1_900),
            cleared_at=stamp(at - 1_100),
            ended="cleared",
            runs=(recent(at)[0].run_id,),
        ),
    )


# --- money --------------------------------------------------------------------------------------------------------------


def position(account: str, symbol: str, size: float, entry: float) -> PositionView:
    """A position at the oracle's price."""
    price = PRICES[symbol]
    return PositionView(
        id=f"{account}:{symbol}",
        market=f"dydx:{symbol}",
        size=f"{size:g}",
        notional_usd=size * price,
        entry_price=entry,
        price=price,
        unrealized_pnl_usd=size * (price - entry),
        funding_daily_usd=size * price * (0.00084 if symbol == "HYPE-USD" else 0.000012) * 24,
        liquidation_price=price * (0.873 if size > 0 else 1.21),
        liquidation_distance=0.127 if size > 0 else 0.21,
        exit_cost_usd=abs(size * price) * 0.0009,
    )


def accounts(at: float) -> tuple[AccountView, ...]:
    """Two accounts, the worse one first, the other flat."""
    worst = AccountView(
        id="dydx",
        venue="dydx",
        equity_usd=61_204.18,
        collateral_usd=66_910.0,
        free_collateral_usd=18_077.4,
        leverage=7.92,
        margin_ratio=0.41,
        margin_ratio_at_mid=0.405,
        margin_ratio_at_reference=None,
        survivable_move=0.077,
        time_to_liquidation_s=5_820.0,
        net_delta_usd=341_150.0,
        age_s=2.6,
        flat=False,
        positions=(
            position("dydx", "ETH-USD", 95.0, 3_022.5),
            position("dydx", "HYPE-USD", 1_350.0, 39.8),
            position("dydx", "BTC-USD", 0.04, 60_800.0),
        ),
    )
    other = AccountView(
        id="dydx#1",
        venue="dydx",
        equity_usd=250_000.0,
        collateral_usd=250_000.0,
        free_collateral_usd=250_000.0,
        leverage=0.0,
        margin_ratio=0.0,
        margin_ratio_at_mid=0.0,
        margin_ratio_at_reference=0.0,
        survivable_move=math.inf,
        time_to_liquidation_s=math.inf,
        net_delta_usd=0.0,
        age_s=2.6,
        flat=True,
        positions=(),
    )
    return worst, other


def approval(at: float, deadline_s: float = 107.0) -> NeedView:
    """The plan on ETH-USD that waits for the desk lead."""
    run = run_id(at, "ETH-USD", ago_s=71.0)
    return NeedView(
        kind="approval",
        target=run,
        title="Shrink dydx:ETH-USD by 8.2 ETH",
        text="paying 0.061 %/h, 0.011 %/h above 0.05 %/h; shrinking is repaid by funding within 1h52m",
        runbook="funding-spike",
        entity="dydx:ETH-USD",
        run_id=run,
        step="shrink",
        since=stamp(at - 13),
        deadline=stamp(at + deadline_s),
        if_nothing="the step is skipped; the position stays and goes on paying 172 USD an hour",
        digest=DIGEST,
        people=("desk-lead", "ana"),
        quorum=1,
        before=Outlook(margin_ratio=0.41, survivable_move=0.077, net_delta_usd=341_150.0),
        after=Outlook(margin_ratio=0.378, survivable_move=0.091, net_delta_usd=316_796.0),
        cost_usd=21.92,
        legs=(
            LegView(text="SELL 4.1 dydx:ETH-USD, reduce-only, at 2,965.55 or better", notional_usd=12_177.0),
            LegView(text="SELL 4.1 dydx:ETH-USD, reduce-only, 10s later", notional_usd=12_177.0),
        ),
        verbs=("approve", "deny"),
    )


def needs(at: float) -> tuple[NeedView, ...]:
    """Everything that can wait for a person."""
    hype = run_id(at)
    return (
        approval(at),
        NeedView(
            kind="unknown_outcome",
            target=f"{hype}.shrink.4.1",
            title="Unknown outcome: SELL 113.3 dydx:HYPE-USD",
            text="no answer within 20s; it is looked up until it is found or must have expired",
            runbook="funding-spike",
            entity="dydx:HYPE-USD",
            run_id=hype,
            step="shrink",
            since=stamp(at - 314),
            if_nothing="limits keep counting it as filled; the run waits",
        ),
        NeedView(
            kind="stuck_transfer",
            target=f"{recent(at)[3].run_id}.bring.1.1",
            title="Stuck transfer: 50,000 USD over cctp",
            text="sent 2h ago, expected within 30m, never credited",
            runbook="buffer-low",
            entity="dydx",
            run_id=recent(at)[3].run_id,
            since=stamp(at - 7_300),
            if_nothing="the amount counts as under way and no other transfer to dydx starts",
            verbs=("ack",),
        ),
        NeedView(
            kind="undelivered",
            target="desk",
            title="2 messages were not delivered to desk",
            text="https://hooks.example.com answered 500 for 2h",
            since=stamp(at - 4_000),
            if_nothing="nobody at that endpoint knows of them",
        ),
        NeedView(
            kind="refused_reload",
            target="runbooks/thin-book.yaml",
            title="A runbook was refused",
            text=f"runbooks/thin-book.yaml:14:9: no signal is called 'dept'; did you mean 'depth'? {HOSTILE}",
            since=stamp(at - 840),
            if_nothing="the set that was in force before goes on deciding",
        ),
    )


def acts(at: float) -> tuple[ActView, ...]:
    """Four slices on HYPE-USD, the last with an unknown outcome."""
    run = run_id(at)

    def act(number: int, ago: float, status: str, filled: str, price: float | None, cost: float | None, reason: str = "") -> ActView:
        return ActView(
            action_id=f"{run}.shrink.{number}.1",
            run_id=run,
            runbook="funding-spike",
            at=stamp(at - ago),
            text="SELL 112.5 dydx:HYPE-USD, reduce-only",
            status=status,
            reason=reason,
            asked="112.5",
            filled=filled,
            price=price,
            mid=None if price is None else price + 0.03,
            cost_usd=cost,
        )

    return (
        act(4, 334, "unknown", "", None, None, "no answer within 20s"),
        act(3, 345, "done", "111.7", 41.15, 3.92),
        act(2, 356, "done", "112.5", 41.17, 3.38),
        act(1, 370, "done", "112.5", 41.19, 2.41),
    )


# --- alerts out ---------------------------------------------------------------------------------------------------------


def endpoints(at: float) -> tuple[EndpointView, ...]:
    """Four endpoints in four conditions."""
    return (
        EndpointView(
            name="page",
            kind="webhook",
            format="pagerduty",
            address="https://events.example.com/v2/enqueue",
            state="ok",
            waiting=0,
            delivered=412,
            dead=0,
            last_at=stamp(at - 372),
            last_error="",
        ),
        EndpointView(
            name="desk",
            kind="webhook",
            format="slack",
            address="https://hooks.example.com/services/…",
            state="open breaker",
            waiting=3,
            delivered=1_204,
            dead=2,
            last_at=stamp(at - 7_400),
            last_error="500 Internal Server Error",
        ),
        EndpointView(
            name="old",
            kind="webhook",
            format="reefd",
            address="https://old.example.com/hook",
            state="disabled",
            waiting=0,
            delivered=88,
            dead=0,
            last_at=stamp(at - 90_000),
            last_error="410 Gone",
        ),
        EndpointView(
            name="bus",
            kind="mqtt",
            format="reefd",
            address="mqtt://localhost:1883",
            state="never used",
            waiting=0,
            delivered=0,
            dead=0,
            last_at=None,
            last_error="",
        ),
    )


def deliveries(at: float) -> tuple[DeliveryView, ...]:
    """Messages: dead, waiting, delivered and grouped."""
    told = [
        ("msg_04", "desk", "warning", "waiting", 2, None, stamp(at + 1_700), "500 Internal Server Error"),
        ("msg_03", "page", "critical", "delivered", 1, stamp(at - 371), None, ""),
        ("msg_02", "desk", "warning", "dead", 9, stamp(at - 2_000), None, f"500 Internal Server Error {HOSTILE}"),
        ("msg_01", "desk", "info", "dead", 9, stamp(at - 4_000), None, "connection refused"),
        ("msg_00", "page", "info", "grouped", 0, stamp(at - 4_000), None, ""),
    ]
    return tuple(
        DeliveryView(
            id=name,
            position=100 - i,
            endpoint=endpoint,
            severity=severity,
            status=status,
            attempts=attempts,
            created_at=stamp(at - 372 - 900 * i),
            next_due=due,
            settled_at=settled,
            error=error,
            body=f'{{"text": "funding-spike fired on dydx:HYPE-USD {HOSTILE}"}}',
        )
        for i, (name, endpoint, severity, status, attempts, settled, due, error) in enumerate(told)
    )


def stress(at: float) -> StressView:
    """Figures of the last hour."""
    return StressView(
        enabled=True,
        figures=(
            reading("stress_liquidation_probability", 0.0042, "ratio", "0.42%", 1_260.0),
            reading("stress_cvar", 18_930.0, "USD", "18,930 USD", 1_260.0),
        ),
        last_at=stamp(at - 1_260),
        problem="",
        reports=("stress-2026-11-26T01.html", "replay-october.html"),
    )


def journal(at: float, count: int = 340) -> tuple[EntryView, ...]:
    """Entries, newest first: the moments of the run and a long past."""
    entries = [
        EntryView(
            seq=m.seq, part=1, position=2_000 + i, at=m.at, role="record", type=m.kind, summary=m.title, hash=f"{m.seq:064x}", body=m.body
        )
        for i, m in enumerate(moments(at))
    ]
    entries += [
        EntryView(
            seq=40_000 + i,
            part=0,
            position=1_000 + i,
            at=stamp(at - 900 - 30 * (count - i)),
            role="event",
            type="FeedFailed" if i % 3 else "OperatorCommand",
            summary=f"bridge.routes failed {i} times" if i % 3 else f"ana paused thin-book: {HOSTILE}",
            hash=f"{40_000 + i:064x}",
            body={"type": "FeedFailed", "n": i},
        )
        for i in range(count)
    ]
    return tuple(sorted(entries, key=lambda entry: entry.position, reverse=True))


# --- the whole ----------------------------------------------------------------------------------------------------------


def eventful(at: float) -> Now:
    """The night in which everything happens."""
    polls = feeds(at)
    return Now(
        at=stamp(at),
        published=stamp(at),
        build="0.5.0",
        house="reefd",
        dry_run=False,
        speed=1.0,
        seq=48_120,
        head="ab" * 32,
        line="NEEDS YOU",
        since=stamp(at - 13),
        why="an approval lapses in under two minutes, and one outcome is unknown",
        worst_feed=polls[-1],
        halted="",
        openings_halted=False,
        needs=needs(at),
        accounts=accounts(at),
        acts=acts(at),
        hedges=(
            HedgeView(asset="ETH", net_delta_usd=282_150.0, text="the short leg on hl was closed by somebody else 12 minutes ago"),
            HedgeView(asset="HYPE", net_delta_usd=None, text="the other leg's size is unknown since 94 s"),
        ),
        thresholds=(
            ThresholdView(
                runbook="margin-low",
                entity="dydx",
                text="margin_ratio_worst > 60%",
                now="41%",
                bound="60%",
                distance="19% below",
                nearness=0.32,
                price="ETH-USD at 2,806 USD (-5.5%)",
            ),
            ThresholdView(
                runbook="buffer-low",
                entity="dydx",
                text="free_collateral < 15,000 USD",
                now="18,077 USD",
                bound="15,000 USD",
                distance="3,077 USD above",
                nearness=0.2,
                price="",
            ),
            ThresholdView(
                runbook="funding-spike",
                entity="dydx:BTC-USD",
                text="paid > threshold",
                now="0.0012%/h",
                bound="0.05%/h",
                distance="0.0488%/h below",
                nearness=0.97,
                price="",
            ),
        ),
        cash=CashView(
            within_5m=40_000.0,
            within_30m=120_000.0,
            later=250_000.0,
            in_flight=25_000.0,
            stuck=50_000.0,
            lines=(
                "arbitrum: 40,000 USD over fast, 20s",
                "ethereum: 120,000 USD over cctp, 20m",
                "dydx#1: 250,000 USD, by hand",
                "in flight: 25,000 USD over fast, sent 14s ago",
                "stuck: 50,000 USD over cctp, sent 2h ago",
            ),
        ),
        nets_down=(
            NetView(runbook="thin-book", entity="", why="paused by ana: known maintenance", until=stamp(at + 2_700)),
            NetView(runbook="oracle-divergence", entity="", why="shadow: it decides and does nothing", until=None),
            NetView(runbook="funding-spike", entity="dydx:BTC-USD", why="guard UNKNOWN: venue_up_for was never read", until=None),
        ),
        upcoming=(
            UpcomingView(at=stamp(at + 107), text="the approval of funding-spike on dydx:ETH-USD lapses"),
            UpcomingView(at=stamp(at + 1_740), text="funding settles on dydx: about 27.8 USD to pay"),
            UpcomingView(at=stamp(at + 2_700), text="the pause of thin-book ends"),
        ),
        gates=(GateView(what="position dydx:HYPE-USD", by="funding-spike", since=stamp(at - 371), reason="paying 0.084 %/h"),),
        feeds=polls,
        problems=("feed bridge.routes fails since 94 s", "2 messages were not delivered to desk", "1 instance cannot be judged"),
        running=running(at),
        recent=recent(at),
        stats={"decisions": 48_120.0, "slowest_decision_s": 0.0021, "inbox": 0.0, "outbox": 3.0},
    )


def quiet(at: float) -> Now:
    """Nothing fires, nothing waits, every feed is fresh."""
    calm = tuple(replace(feed, state="ok", age_s=min(feed.age_s or 1.0, 3.0), failures=0, reason="") for feed in feeds(at))
    worst, other = accounts(at)
    return replace(
        eventful(at),
        line="QUIET",
        since=stamp(at - 14_400),
        why="nothing fires, nothing waits, every feed is fresh",
        worst_feed=calm[-1],
        needs=(),
        accounts=(replace(worst, margin_ratio=0.12, survivable_move=0.31, time_to_liquidation_s=None), other),
        acts=(),
        hedges=(),
        nets_down=(),
        gates=(),
        feeds=calm,
        problems=(),
        running=(),
    )


def blind(at: float) -> Now:
    """The venue's feed is old: what is shown of it is the past."""
    old = tuple(replace(feed, state="stale", age_s=312.0, failures=40, reason="no route to host") for feed in feeds(at))
    worst, other = accounts(at)
    return replace(
        eventful(at),
        line="BLIND",
        since=stamp(at - 312),
        why="nothing was heard of dydx for 5m12s: all its readings are UNKNOWN, nothing acts on them",
        worst_feed=old[0],
        feeds=old,
        accounts=(replace(worst, margin_ratio=None, margin_ratio_at_mid=None, survivable_move=None, age_s=312.0), other),
        problems=("nothing was heard of dydx for 5m12s", *(f"feed {feed.source} is stale" for feed in old)),
    )
