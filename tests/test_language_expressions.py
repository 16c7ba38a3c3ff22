"""The language: precedence, units, names, errors that point at the token and say what to write, and total parsing of any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.language.catalogue import CATALOGUE
from daemon.language.labels import check_where, matches
from daemon.language.parse import parse
from daemon.language.problems import ExpressionError, Problem
from daemon.language.syntax import Binary, Compare, Literal, Name, Unary
from daemon.language.terms import Constant, Names
from daemon.language.typing import NOTHING, Scope, Typed, check, derivation, of_unit
from daemon.units import parse_quantity
from daemon.world.entities import Kind


def typed(text: str, kind: Kind = Kind.POSITION, expect: str | tuple[str, ...] | None = None, **scope: bool) -> Typed:
    return check(parse(text), text, Scope(kind=kind, **scope), expect)


def problem(text: str, kind: Kind = Kind.POSITION, expect: str | None = None) -> tuple[str, str, str]:
    """Code, the token it points at and the message of the one problem of a text."""
    with pytest.raises(ExpressionError) as raised:
        typed(text, kind, expect)
    (one,) = raised.value.problems
    return one.code, text[one.start : one.end], one.message


def test_not_binds_tighter_than_and_and_and_tighter_than_or() -> None:
    tree = parse("not venue_up or market_open and withdrawals_open")
    assert isinstance(tree, Binary)
    assert tree.op == "or"
    assert isinstance(tree.left, Unary)
    assert isinstance(tree.right, Binary)
    assert tree.right.op == "and"


def test_comparisons_bind_tighter_than_not_and_looser_than_arithmetic() -> None:
    tree = parse("not a + b * c < d")
    assert isinstance(tree, Unary)
    assert isinstance(tree.operand, Compare)
    assert isinstance(tree.operand.operands[0], Binary)
    assert tree.operand.operands[0].op == "+"


def test_a_chain_of_comparisons_means_all_of_its_pairs() -> None:
    tree = parse("a < b <= c")
    assert isinstance(tree, Compare)
    assert tree.ops == ("<", "<=")
    assert [o.name for o in tree.operands if isinstance(o, Name)] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("25%", 0.25, "ratio"),
        ("50bps", 0.005, "ratio"),
        ("0.02%/h", 0.0002, "rate/h"),
        ("0.4%/8h", 0.0005, "rate/h"),
        ("25_000 USD", 25000.0, "USD"),
        ("90s", 90.0, "s"),
        ("2m30s", 150.0, "s"),
        ("7d", 604800.0, "s"),
        ("3000", 3000.0, "1"),
        ("3000 USD/base", 3000.0, "price"),
    ],
)
def test_a_literal_is_the_nearest_double_of_its_exact_decimal(text: str, value: float, unit: str) -> None:
    literal = parse(text)
    assert isinstance(literal, Literal)
    assert (literal.value, literal.unit) == (value, unit)
    assert parse_quantity(text) == (value, unit)


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("funding_rate * 8h", "ratio"),
        ("oracle_price * size", "USD"),
        ("notional / notional", "ratio"),
        ("oracle_price / mid_price - 1", "ratio"),
        ("10 / 5", "1"),
        ("80% * 3", "ratio"),
        ("notional / 24h", "USD.h^-1"),
        ("slope(oracle_price, 1h) * 2h", "price"),
        ("zscore(funding_rate, 7d)", "1"),
        ("share(funding_rate > 0, 1d)", "ratio"),
        ("age(oracle_price)", "s"),
        ("sign(size)", "1"),
        ("least(funding_rate, 1%/h)", "rate/h"),
        ("leverage", "1"),
        ("net_delta(BTC)", "USD"),
        ("net_delta", "USD"),
        ("realized_vol(24h)", "ratio"),
        ('signal("dydx:BTC-USD", oracle_price)', "price"),
        ("count_over(peers, mid_price)", "1"),
    ],
)
def test_units_follow_from_the_operands(text: str, unit: str) -> None:
    assert typed(text).unit == unit


@pytest.mark.parametrize(
    ("text", "code", "token", "advice"),
    [
        ("funding_rate > 5%", "E014", "5%", "write 5%/h"),
        ("margin_ratio > 20", "E014", "20", "write 20%"),
        ("margin_ratio > 0.8", "E014", "0.8", "write 80%"),
        ("equity < 25_000", "E014", "25_000", "write 25_000 USD"),
        ("block_age > 30", "E014", "30", "write 30s"),
        ("oracle_price > 3000 USD", "E014", "3000 USD", "write 3000 price"),
        ("spread > 1", "E014", "1", "write 1%"),
        ("size + funding_rate > 0", "E014", "funding_rate", "write a value in base"),
        ("venue_up > 1", "E015", "venue_up", "write venue_up or not venue_up"),
        ("venue_up and 3", "E015", "3", "write a comparison"),
        ("funding_rat > 0", "E011", "funding_rat", "did you mean funding_rate?"),
        ("gas_price > 1 gwei and nosuch > 0", "E011", "nosuch", "unknown name"),
        ("mean(funding_rate)", "E013", "mean(funding_rate)", "write mean(x, 24h)"),
        ("mean(funding_rate, 3) > 0", "E013", "3", "write for example 24h"),
        ("quantile(funding_rate, 3, 1d) > 0", "E013", "3", "write for example 99%"),
        ("zscore(funding_rate, 12h) > 4", "E016", "zscore(funding_rate, 12h) > 4", "never exceeds 3.18"),
        ("zscore(funding_rate, 12h) < -4", "E016", "zscore(funding_rate, 12h) < -4", "never exceeds 3.18 either way"),
        ("4 < abs(zscore(funding_rate, 12h))", "E016", "4 < abs(zscore(funding_rate, 12h))", "never exceeds 3.18"),
        ("abs(size@start) > 0", "E018", "size@start", "outside of steps there is no run"),
        ("book_crossed", "E011", "book_crossed", "display only"),
        ("buffer(3m) > 0", "E013", "buffer(3m)", "takes the name of a chain"),
        ("buffer(eth*aeum) > 0", "E013", "eth*aeum", "takes a name or a duration"),
        ("realized_vol(ethereum) > 0", "E013", "realized_vol(ethereum)", "takes a duration above 0"),
        ("realized_vol(-1h) > 0", "E013", "realized_vol(-1h)", "takes a duration above 0"),
        ("buffer_reachable(1h, 1h) > 0", "E013", "buffer_reachable(1h, 1h)", "write buffer_reachable(ethereum, 24h)"),
        ("fundin_rate * sign(size) > 0.05%/h", "E011", "fundin_rate", "did you mean funding_rate?"),
        ("zscore(fundin_rate, 7d) > 5%", "E011", "fundin_rate", "did you mean funding_rate?"),
        ("last_price > 5%", "E014", "5%", "write 5 price"),
        ("age(oracle_price) > 7 d", "E010", "d", "write 7d"),
        ("spread > 5 bps", "E010", "bps", "write 5bps"),
        ("a && b", "E010", "&&", "write and"),
        ("funding_rate = 0", "E010", "=", "write =="),
        ("funding_rate > 20bp", "E010", "20bp", "has no unit"),
        ("funding_rate > ", "E010", ">", "ends too early"),
        ("funding_rate 3", "E010", "3", "an operator is missing"),
    ],
)
def test_a_mistake_names_the_token_and_what_to_write(text: str, code: str, token: str, advice: str) -> None:
    found = problem(text)
    assert found[0] == code
    assert found[1] == token
    assert advice in found[2]


def test_every_mistake_of_an_expression_is_told_at_once() -> None:
    with pytest.raises(ExpressionError) as raised:
        typed("funding_rate > 5% and margin_ratio > 20 and nosuch > 0")
    assert [p.code for p in raised.value.problems] == ["E014", "E014", "E011"]


def test_the_bare_zero_has_every_dimension_and_one_may_be_added_to_a_ratio() -> None:
    for text in ("funding_rate > 0", "equity > 0", "0 < block_age", "1 - spread > 0", "spread - 1 < 0", "clamp(funding_rate, 0, 1%/h) > 0"):
        assert typed(text).unit == "bool"


def test_a_condition_is_wanted_where_a_number_was_found() -> None:
    assert problem("funding_rate", expect="bool")[0] == "E015"
    assert problem("funding_rate > 0", expect="ratio")[0] == "E014"


def test_a_route_must_say_which_of_its_ends_it_means() -> None:
    code, token, message = problem("gas_price > 1 gwei", Kind.ROUTE)
    assert (code, token) == ("E012", "gas_price")
    assert "from.gas_price" in message
    assert typed("to.gas_price > 1 gwei", Kind.ROUTE).unit == "bool"


def test_the_nearest_scope_wins_and_a_prefix_names_one() -> None:
    assert {kind for kind, _ in typed("block_age > 1s").signals} == {Kind.VENUE}
    assert {kind for kind, _ in typed("chain.block_age > 1s").signals} == {Kind.CHAIN}


def test_a_z_threshold_within_reach_of_its_window_is_accepted() -> None:
    assert typed("zscore(funding_rate, 24h) > 4").unit == "bool"


def test_every_derivation_of_the_catalogue_types_to_its_declared_unit() -> None:
    arguments = {
        "duration": Constant(3600.0, of_unit("s"), "1h"),
        "chain": Names("ethereum", NOTHING, "x"),
        "asset": Names("BTC", NOTHING, "x"),
    }
    declared = {"leverage": "1", "adl_score": "1"}  # ratios by dimension, plain numbers by custom
    derived = [s for s in CATALOGUE.values() if s.role != "observed"]
    assert len(derived) > 50
    for signal in derived:
        term = derivation(signal.kind, signal.name, tuple(arguments[a] for a in signal.arguments))
        found = term.dimension.unit
        assert found == signal.unit or (signal.name in declared and found == "ratio"), signal.name


def problems_of(text: str) -> tuple[Problem, ...]:
    """What is wrong with a text; nothing when it is an expression."""
    try:
        typed(text)
    except ExpressionError as error:
        return error.problems or (Problem(0, 0, "none", ""),)
    return ()


@given(st.text(max_size=120))
def test_any_text_parses_or_raises_an_expression_error_within_its_length(text: str) -> None:
    for one in problems_of(text):
        assert 0 <= one.start <= max(len(text), 1)
        assert one.message


_ATOMS = st.sampled_from(["funding_rate", "size", "5%", "0", "3m", "venue_up", "spread", "25_000 USD", "equity", "1"])


@given(st.recursive(_ATOMS, lambda inner: st.one_of(
    st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "<", ">=", "and", "or"]), inner).map(lambda t: f"({t[0]} {t[1]} {t[2]})"),
    inner.map(lambda x: f"not {x}"), inner.map(lambda x: f"abs({x})"), inner.map(lambda x: f"mean({x}, 1h)")), max_leaves=12))  # fmt: skip
def test_any_well_formed_text_is_typed_or_refused_with_problems(text: str) -> None:
    assert all(one.code.startswith("E01") for one in problems_of(text))


def test_where_compares_labels_with_texts_and_a_missing_label_is_empty() -> None:
    node = parse('venue == "dydx" and bucket != "contingency"')
    check_where(node, 'venue == "dydx" and bucket != "contingency"')
    assert matches(node, {"venue": "dydx"})
    assert not matches(node, {"venue": "dydx", "bucket": "contingency"})
    assert not matches(node, {})
    with pytest.raises(ExpressionError):
        check_where(parse("venue > 3"), "venue > 3")
