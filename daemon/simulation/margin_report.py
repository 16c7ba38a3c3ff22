"""What `reefd margin` says (floor 5): every account's standing and map as JSON, as text, and as a page that fetches nothing."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Sequence

from daemon.simulation.book import Book
from daemon.simulation.heat import tint
from daemon.simulation.margin_map import DELAYS_NS, FUNDING_RATES, MOVES, AccountMap, PositionStanding, Standing, Threshold
from daemon.simulation.page_style import STYLE
from daemon.units import NS, show, show_duration

Json = dict[str, object]
NONE = "none"
_LOCAL = """
.heat{table-layout:fixed;width:100%;border-collapse:separate;border-spacing:2px;font-size:13px;margin:6px 0}
.heat th{font-weight:400;color:var(--soft);padding:2px 0}
.heat td{text-align:center;padding:7px 0;border-radius:4px}
.heat th:first-child,.heat thead td{width:64px;text-align:left}
.numbers.narrow th:first-child{min-width:0}
@media (max-width:640px){.heat{font-size:10px;border-spacing:1px}.heat th:first-child,.heat thead td{width:38px}}
:root{--good:31,122,92;--bad:190,66,48}
@media (prefers-color-scheme:dark){:root{--good:86,190,150;--bad:240,120,90}}
h3{margin:18px 0 4px}
.tiles.six{grid-template-columns:repeat(3,minmax(0,1fr))}
@media (max-width:640px){.tiles.six{grid-template-columns:repeat(2,minmax(0,1fr))}}
"""


def as_json(book: Book, maps: Sequence[AccountMap]) -> Json:
    """The document; null: no such price or move, or no equity left."""
    return {
        "book": book.name,
        "axes": {"moves": list(MOVES), "funding_rates_hourly": list(FUNDING_RATES), "delays_s": [delay / NS for delay in DELAYS_NS]},
        "accounts": [
            {
                **_standing(one.standing),
                "thresholds": [
                    {
                        "funding_rate_hourly": t.funding_rate, "delay_s": t.delay_ns / NS, "paid_usd": t.paid_usd,
                        "survivable_move": {"down": _known(t.down), "up": _known(t.up)},
                    }
                    for t in one.thresholds
                ],
                "map": {
                    "margin_ratio": [[[_known(ratio) for ratio in row] for row in rows] for rows in one.ratios],
                    "liquidated": [[[ratio > 1.0 for ratio in row] for row in rows] for rows in one.ratios],
                },
            }
            for one in maps
        ],
    }  # fmt: skip


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _standing(standing: Standing) -> Json:
    return {
        "account": standing.account, "venue": standing.venue, "model": standing.model, "equity_usd": standing.equity_usd,
        "initial_margin_usd": standing.initial_usd, "maintenance_margin_usd": standing.maintenance_usd,
        "margin_ratio": _known(standing.margin_ratio), "free_collateral_usd": standing.free_usd, "leverage": _known(standing.leverage),
        "gross_usd": standing.gross_usd, "net_usd": standing.net_usd, "liquidatable": standing.liquidatable,
        "survivable_move": {"down": _known(standing.survivable_down), "up": _known(standing.survivable_up)},
        "positions": [
            {
                "market": held.market, "size": held.size, "price": held.price, "entry_price": held.entry_price,
                "notional_usd": held.notional_usd, "maintenance_margin_usd": held.maintenance_usd,
                "liquidation_price": _known(held.liquidation_price), "liquidation_distance": _known(held.distance),
            }
            for held in standing.positions
        ],
    }  # fmt: skip


# -- text ------------------------------------------------------------------------------------------------------------------------


def as_text(book: Book, maps: Sequence[AccountMap]) -> str:
    """Tables for a terminal."""
    lines = [f"book {book.name}{': ' + book.title if book.title else ''}"]
    for one in maps:
        lines += ["", *_account_lines(one)]
    return "\n".join(lines)


def _account_lines(one: AccountMap) -> Iterator[str]:
    s = one.standing
    state = "LIQUIDATABLE NOW" if s.liquidatable else f"margin ratio {_percent(s.margin_ratio)}"
    yield f"account {s.account} ({s.model}): equity {_usd(s.equity_usd)}, {state}, leverage {_times(s.leverage)}"
    yield (
        f"  initial margin {_usd(s.initial_usd)}, maintenance margin {_usd(s.maintenance_usd)}, free collateral {_usd(s.free_usd)};"
        f" gross {_usd(s.gross_usd)}, net {_usd(s.net_usd)}"
    )
    moves = (("fall", s.survivable_down), ("rise", s.survivable_up))
    yield "  " + "; ".join(
        f"no common {way} liquidates it" if math.isinf(m) else f"a common {way} of {_move(m)} liquidates it" for way, m in moves
    )
    if s.positions:
        yield f"  {'position':<12}{'size':>14}{'price':>14}{'notional, USD':>16}{'margin, USD':>13}{'liquidated at':>16}{'distance':>10}"
    for held in s.positions:
        yield (
            f"  {held.market:<12}{held.size:>14,g}{held.price:>14,g}{held.notional_usd:>16,.0f}{held.maintenance_usd:>13,.0f}"
            f"{_price(held.liquidation_price):>16}{_move(held.distance):>10}"
        )
    if not s.positions:
        return
    yield ""
    yield f"  {'funding paid':<14}{'for':>7}{'costs, USD':>13}{'then a fall of':>16}{'or a rise of':>14} liquidates"
    for t in one.thresholds:
        yield f"  {_rate(t):<14}{_delay(t.delay_ns):>7}{t.paid_usd:>13,.0f}{_move(t.down):>16}{_move(t.up):>14}"
    for rate, rows in zip(FUNDING_RATES, one.ratios, strict=True):
        yield ""
        yield f"  margin ratio at {show(rate, 'rate/h')} paid, by delay (down) and common move (across)"
        yield f"  {'':<7}" + "".join(f"{f'{100 * move:+.0f}%':>7}" for move in MOVES)
        for delay, row in _delays(rate, rows):
            yield f"  {_delay(delay):<7}" + "".join(f"{_cell(ratio):>7}" for ratio in row)


def _delays(rate: float, rows: Sequence[Sequence[float]]) -> list[tuple[int, Sequence[float]]]:
    """The rows that differ: without funding a delay changes nothing."""
    found = list(zip(DELAYS_NS, rows, strict=True))
    return found[:1] if rate == 0.0 else found[1:]


def _rate(threshold: Threshold) -> str:
    return "nothing" if threshold.funding_rate == 0.0 else show(threshold.funding_rate, "rate/h")


def _delay(delay_ns: int) -> str:
    return "at once" if delay_ns == 0 else show_duration(delay_ns / NS)


def _cell(ratio: float) -> str:
    return "LIQ" if ratio > 1.0 else _percent(ratio)


def _percent(ratio: float) -> str:
    return "no equity" if math.isinf(ratio) else f"{100 * ratio:.0f}%"


def _move(move: float) -> str:
    return NONE if math.isinf(move) else f"{100 * move:.1f}%"


def _price(price: float) -> str:
    return NONE if math.isnan(price) else f"{price:,.6g}"


def _times(leverage: float) -> str:
    return "without bound" if math.isnan(leverage) else f"{leverage:.1f}x"


def _usd(value: float) -> str:
    return f"{value:,.0f} USD"


# -- page ------------------------------------------------------------------------------------------------------------------------


def page(book: Book, maps: Sequence[AccountMap]) -> str:
    """One HTML page: per account its figures, positions, thresholds, and a heat map by funding rate."""
    body = "".join(f"<section>{_account_html(one)}</section>" for one in maps)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>Margin of {html.escape(book.name)}</title><style>{STYLE}{_LOCAL}</style>'
        f'</head><body><header><h1>Margin of {html.escape(book.name)}</h1><p class="soft">How far each account is from liquidation, and'
        " what a move of all prices, funding that every position pays, and money that is late do to it.</p></header>"
        f'<main>{body}</main><footer class="soft">reefd margin</footer></body></html>\n'
    )


def _account_html(one: AccountMap) -> str:
    s = one.standing
    tiles = [
        ("Equity", _usd(s.equity_usd), f"leverage {_times(s.leverage)}"),
        ("Margin ratio", _percent(s.margin_ratio), f"maintenance margin {_usd(s.maintenance_usd)}; 100 % is liquidated"),
        ("Free collateral", _usd(s.free_usd), f"initial margin {_usd(s.initial_usd)}"),
        ("A fall of all prices", _move(s.survivable_down), "liquidates it" if math.isfinite(s.survivable_down) else "none does"),
        ("A rise of all prices", _move(s.survivable_up), "liquidates it" if math.isfinite(s.survivable_up) else "none does"),
        ("Gross and net", f"{_usd(s.gross_usd)}", f"net {_usd(s.net_usd)}"),
    ]
    listed = "".join(f"<div><dt>{name}</dt><dd>{big}<small>{small}</small></dd></div>" for name, big, small in tiles)
    title = f"<h2>{html.escape(s.account)} <small class=soft>{html.escape(s.model)}</small></h2>"
    if not s.positions:
        return f'{title}<dl class="tiles six">{listed}</dl>'
    heats = "".join(_heat_html(rate, rows) for rate, rows in zip(FUNDING_RATES, one.ratios, strict=True))
    return f'{title}<dl class="tiles six">{listed}</dl>{_positions(s.positions)}{_thresholds(one.thresholds)}{heats}'


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], label: str, style: str = "") -> str:
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    body = "".join(f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows)
    return (
        f'<h3>{html.escape(label)}</h3><div class="scroll" role="region" tabindex="0" aria-label="{html.escape(label)}">'
        f'<table class="numbers {style}"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def _positions(held: Sequence[PositionStanding]) -> str:
    rows = [
        (html.escape(one.market), _move(one.distance), _price(one.liquidation_price), f"{one.price:,g}", f"{one.size:,g}",
         f"{one.notional_usd:,.0f}", f"{one.maintenance_usd:,.0f}")
        for one in held
    ]  # fmt: skip
    names = ("Position", "Distance", "Liquidated at", "Price", "Size", "Notional, USD", "Maintenance, USD")
    return _table(names, rows, "Liquidation prices, the others standing still", "narrow")


def _thresholds(thresholds: Sequence[Threshold]) -> str:
    rows = [(_rate(t), _delay(t.delay_ns), f"{t.paid_usd:,.0f}", _move(t.down), _move(t.up)) for t in thresholds]
    names = ("Funding paid", "For", "Costs, USD", "Fall that liquidates", "Rise")
    return _table(names, rows, "What funding and delay leave of the threshold", "narrow")


def _heat_html(rate: float, rows: Sequence[Sequence[float]]) -> str:
    """One funding rate as a table of tinted cells, which fits a phone."""
    heads = "".join(f'<th scope="col">{100 * move:+.0f}%</th>' for move in MOVES)
    body = ""
    for delay, row in _delays(rate, rows):
        # The tint is of the signed room to liquidation, so that it turns where the account is gone.
        rooms = [max(1.0 - ratio, -1.0) for ratio in row]
        cells = "".join(
            f'<td style="background:{tint(room, -1.0, 1.0, fewer=False)}">{_cell(ratio)}</td>'
            for room, ratio in zip(rooms, row, strict=True)
        )
        body += f'<tr><th scope="row">{_delay(delay)}</th>{cells}</tr>'
    paid = "no funding" if rate == 0.0 else f"{show(rate, 'rate/h')} of funding paid"
    lead = "common move of all prices across" + ("" if rate == 0.0 else ", delay down")
    return (
        f"<h3>Margin ratio, {paid} <small>{lead}</small></h3>"
        f'<table class="heat"><thead><tr><td></td>{heads}</tr></thead><tbody>{body}</tbody></table>'
    )
