"""Mapping files: what they may say, and every mistake of one at once with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.errors import RunbookError, UserError
from daemon.journal.conversion import conversion
from daemon.journal.mapping import Choice, parse_mapping, read_mapping
from daemon.units import HOUR_NS, parse_quantity
from daemon.world.entities import Kind

GOOD = """
kind: market
time: {column: timestamp, format: iso8601, known_after: 1h}
entity:
  venue: {column: venue}
  market: {column: coin, suffix: "-USD"}
where: {venue: [dydx, binance, hyperliquid]}
signals:
  last_price: {column: c, unit: price, holds_for: 1h}
  funding_rate: {column: funding_rate, holds_for: 8h, unit: {by: venue, dydx: rate/h, hyperliquid: rate/h, default: rate/8h}}
"""


def mistakes(text: str) -> list[tuple[int, int, str]]:
    with pytest.raises(RunbookError) as caught:
        parse_mapping(text, "map.yaml")
    return [(found.line, found.column, found.message) for found in caught.value.diagnostics]


def test_the_example_of_the_format_is_read() -> None:
    mapping = parse_mapping(GOOD, "map.yaml")

    assert mapping.kind is Kind.MARKET
    assert (mapping.time.column, mapping.time.format, mapping.time.known_after_ns) == ("timestamp", "iso8601", HOUR_NS)
    assert [(key.name, key.column, key.suffix) for key in mapping.keys] == [("venue", "venue", ""), ("market", "coin", "-USD")]
    assert mapping.where == {"venue": ("dydx", "binance", "hyperliquid")}
    price, funding = mapping.signals
    assert price.holds_for == Choice(default=HOUR_NS)
    assert funding.units.by == "venue"
    assert funding.units.values["dydx"].divide == 1
    assert funding.units.default is not None
    assert (funding.units.default.divide, funding.units.default.interval_ns) == (8, 8 * HOUR_NS)
    assert mapping.columns == ("timestamp", "venue", "coin", "c", "funding_rate")


@pytest.mark.parametrize(
    ("old", "new", "token", "says"),
    [
        ("kind: market", "kind: markets", "markets", "'market'"),
        ("kind: market\n", "\n", "time:", "the key 'kind' is missing"),
        ("time: {column", "tiem: {column", "tiem:", "unknown key 'tiem'"),
        ("format: iso8601", "format: iso", "iso,", "iso8601"),
        ("known_after: 1h", "known_after: -1h", "-1h", "at least 0s"),
        ("known_after: 1h", "known_after: 1 hour", "1 hour", "write for example"),
        ("  venue: {column: venue}\n", "", "market:", "the key 'venue' is missing"),
        ("{column: venue}", "{column: venue, const: dydx}", "{column: venue, const", "either"),
        ("{column: venue}", "{const: dydx, prefix: x}", "{const", "final name"),
        ("where: {venue", "where: {venu", "venu:", "unknown key 'venu'"),
        ("last_price:", "last_prise:", "last_prise:", "did you mean 'last_price'"),
        ("last_price:", "margin_ratio:", "margin_ratio:", "signal of kind account"),
        ("last_price:", "book_crossed:", "book_crossed:", "display only"),
        ("unit: price", "unit: ratio", "ratio,", "write price"),
        ("default: rate/8h", "default: rate", "rate}}", "does not say the period"),
        ("by: venue", "by: coin", "coin,", "venue, market"),
        ("holds_for: 1h", "holds_for: 0s", "0s}", "longer than nothing"),
        ("unit: price,", "unit: price, interval: 1h,", "1h, holds", "only funding_rate"),
        ("column: c,", "colunm: c,", "colunm:", "unknown key 'colunm'"),
        ("column: c,", "colunm: c,", "{colunm", "the key 'column' is missing"),
    ],
)
def test_a_mistake_is_named_at_its_place(old: str, new: str, token: str, says: str) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1)

    found = [(text.split("\n")[line - 1][column - 1 :], message) for line, column, message in mistakes(text)]

    assert any(pointed.startswith(token) and says in message for pointed, message in found), found


def test_all_mistakes_of_a_file_come_at_once() -> None:
    text = GOOD.replace("kind: market", "kind: market\nnonsense: 1").replace("unit: price", "unit: USD").replace("iso8601", "iso")

    assert len(mistakes(text)) == 3


def test_a_rate_and_a_ratio_must_say_their_unit_and_a_price_need_not() -> None:
    text = "kind: market\ntime: {column: t}\nentity: {venue: {const: a}, market: {const: B}}\nsignals: {%s}\n"

    assert "does not say its unit" in mistakes(text % "funding_rate: {column: f}")[0][2]
    assert "does not say its unit" in mistakes(text % "imf: {column: f}")[0][2]
    assert parse_mapping(text % "last_price: {column: c}", "m").signals[0].units.default is not None


def test_a_derived_signal_may_be_recorded_with_a_warning() -> None:
    text = "kind: market\ntime: {column: t}\nentity: {venue: {const: a}, market: {const: B}}\nsignals: {depth: {column: d, unit: USD}}\n"

    (warning,) = parse_mapping(text, "m").warnings
    assert "derived" in warning.message


def test_an_account_may_be_named_by_its_venue() -> None:
    entity = "{venue: {const: dydx}, market: {column: m}}"
    text = f"kind: position\ntime: {{column: t}}\nentity: {entity}\nsignals: {{size: {{column: s, unit: base}}}}\n"

    assert [(key.name, key.const) for key in parse_mapping(text, "m").keys] == [("account", "dydx"), ("market", None)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("- a\n- b\n", "mapping"),
        ("kind: market\nkind: chain\n", "twice"),
        ("kind:\tmarket\n\ttime: x\n", "tab"),
        ("a: &a [x,x]\nb: &b [*a,*a,*a,*a]\n" + "".join(f"c{i}: &c{i} [{'*b,' * 500}]\n" for i in range(200)), "alias"),
        ("x: " + "[" * 200 + "]" * 200, "nested"),
        ("kind: [unclosed\n", "not closed"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused_in_words(text: str, says: str) -> None:
    assert any(says in message for _, _, message in mistakes(text))


def test_a_file_that_is_too_large_is_not_called_empty(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_bytes(b"kind: market\n" + b"# x\n" * 400_000)
    with pytest.raises(RunbookError, match="larger than 1 MiB"):
        read_mapping(tmp_path / "map.yaml")


def test_a_file_of_comments_is_told_how_a_mapping_starts() -> None:
    ((_, _, message),) = mistakes("# later\n")
    assert message == "the file holds comments only; a mapping starts with `kind: market`"


@pytest.mark.parametrize("kind", ["kind: markets", "kind: spot", ""])
def test_a_misspelled_kind_hides_no_mistake_below_it(kind: str) -> None:
    text = GOOD.replace("kind: market", kind).replace("unit: price", "unit: ratio").replace("suffix", "sufix").replace("last_p", "lst_p")
    text = text.replace("where: {venue", "where: {venu").replace("holds_for: 8h", "holds_for: 8 hours")
    found = "\n".join(message for _, _, message in mistakes(text))
    for part in ("kind", "unknown key 'sufix'", "did you mean 'last_price'", "unknown key 'venu'", "8 hours"):
        assert part in found, part


def test_bytes_that_are_not_utf8_and_missing_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "map.yaml").write_bytes(b"kind: m\xff")
    with pytest.raises(RunbookError, match="not UTF-8"):
        read_mapping(tmp_path / "map.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_mapping(tmp_path / "absent.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        read_mapping(tmp_path)


@pytest.mark.parametrize("unit", ["%/h", "%/8h", "bps/8h", "%/d", "%/m"])
def test_a_rate_unit_means_what_the_same_literal_means(unit: str) -> None:
    found = conversion(unit, "rate/h")

    assert 3 * found.multiply / found.divide == pytest.approx(parse_quantity(f"3{unit}")[0], rel=1e-15)


@pytest.mark.parametrize(
    ("unit", "into", "value"),
    [("ratio", "ratio", 3.0), ("%", "ratio", 0.03), ("bps", "ratio", 0.0003), ("rate/8h", "rate/h", 0.375),
     ("ratio/h", "rate/h", 3.0), ("%/y", "rate/h", 3 / 876_000), ("ms", "s", 0.003), ("h", "s", 10_800.0), ("kUSD", "USD", 3000.0),
     ("wei", "gwei", 3e-9), ("1", "1", 3.0)],
)  # fmt: skip
def test_a_unit_becomes_the_catalogues(unit: str, into: str, value: float) -> None:
    found = conversion(unit, into)

    assert 3 * found.multiply / found.divide == value


@pytest.mark.parametrize(
    ("unit", "into"), [("USD", "price"), ("price", "USD"), ("rate/h", "ratio"), ("%", "rate/h"), ("rate/0h", "rate/h"), ("x", "1")]
)
def test_a_unit_of_another_dimension_is_refused_with_what_to_write(unit: str, into: str) -> None:
    with pytest.raises(ValueError, match="write"):
        conversion(unit, into)


MAPS = sorted((Path(__file__).parents[1] / "config" / "maps").glob("*.yaml"))


@pytest.mark.parametrize("path", MAPS, ids=lambda path: path.stem)
def test_every_shipped_mapping_is_read_without_a_warning(path: Path) -> None:
    assert read_mapping(path).warnings == ()
