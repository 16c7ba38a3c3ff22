"""Settings: what the shipped file says, what the environment overrides, and how every mistake is told."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from daemon import settings as module
from daemon.errors import SettingsError
from daemon.settings import Settings, load_settings, overrides, parse_settings
from daemon.units import MINUTE_NS, NS
from daemon.world.entities import Kind

ROOT = Path(__file__).parents[1]
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
VENUE = """
venues:
  dydx:
    adapter: dydx-v4
    url: https://indexer.dydx.trade/v4
    accounts: {dydx: {address: dydx1abc}}
    markets: [BTC-USD, HYPE-USD]
"""


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in module.os.environ if name.upper().startswith("REEFD_")]:
        monkeypatch.delenv(name)


def complaints(text: str) -> list[str]:
    """The first line of every complaint about a text."""
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, "reefd.yaml")
    return [line for line in str(caught.value).splitlines() if line.startswith(("reefd.yaml", "REEFD_"))]


def test_shipped_settings_load_and_describe_the_simulated_venue() -> None:
    settings = load_settings(ROOT / "config" / "reefd.yaml")
    topology = settings.topology()
    assert settings.venues["dydx"].url == "http://127.0.0.1:8480/v4"
    assert settings.venues["dydx"].order_api() == "http://127.0.0.1:8480"
    assert topology.accounts["dydx"].address == "dydx1reefdsim"
    assert topology.routes["cctp"].eta_ns == 20 * MINUTE_NS
    assert topology.routes["cctp"].fee == pytest.approx(0.001)
    assert topology.entity(Kind.POSITION, "dydx:HYPE-USD").labels["bucket"] == "income"
    provides = topology.venues["dydx"].provides
    assert provides is not None
    assert "mark_price" not in provides[Kind.MARKET]
    assert "proposal_open" in provides[Kind.VENUE]


def test_plans_carry_cadences_and_every_chain_that_keeps_a_buffer() -> None:
    settings = load_settings(ROOT / "config" / "reefd.yaml")
    plan, bridge = settings.feed_plan("dydx"), settings.bridge_plan()
    assert plan.cadences.book_ns == 2 * NS
    assert [account.id for account in plan.accounts] == ["dydx"]
    assert bridge is not None
    assert bridge.chains == ("ethereum", "arbitrum")
    assert bridge.routes == ("cctp", "fast")
    assert bridge.venue == "dydx"


def test_environment_overrides_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REEFD_VENUES__DYDX__URL", "http://127.0.0.1:9999/v4")
    monkeypatch.setenv("REEFD_VENUES__DYDX__POLLS__BOOK", "500ms")
    monkeypatch.setenv("REEFD_VENUES__DYDX__MARKETS", "ETH-USD, BTC-USD")
    monkeypatch.setenv("REEFD_LABELS__HYPE_USD__BUCKET", "contingency")
    settings = parse_settings(VENUE + "labels: {HYPE-USD: {bucket: income, desk: a}}\n", "reefd.yaml")
    venue = settings.venues["dydx"]
    assert venue.url == "http://127.0.0.1:9999/v4"
    assert venue.polls.book == NS // 2
    assert venue.polls.markets == 2 * NS
    assert venue.markets == ("ETH-USD", "BTC-USD")
    assert settings.labels == {"HYPE-USD": {"bucket": "contingency", "desk": "a"}}


def test_environment_alone_can_add_a_section_as_json() -> None:
    found, named = overrides({}, {"REEFD_BRIDGE": '{"adapter": "simulated"}', "REEFD_CONFIG": "x.yaml", "HOME": "/root"})
    assert found == {"bridge": {"adapter": "simulated"}}
    assert named == {("bridge",): "REEFD_BRIDGE"}


def test_wrong_variable_is_named_with_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REEFD_VENUES__DYDX__POLLS__BOOK", "5")
    monkeypatch.setenv("REEFD_VENUS__DYDX__URL", "http://127.0.0.1:9999/v4")
    assert complaints(VENUE) == [
        "REEFD_VENUES__DYDX__POLLS__BOOK: found '5'; write a duration with its unit, for example 2s, 5m or 1h",
        "REEFD_VENUS__DYDX__URL: sets nothing; did you mean REEFD_VENUES?",
    ]


def test_variable_that_only_holds_a_secret_is_no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REEFD_DESK_SECRET", SECRET)
    text = VENUE + "webhooks: {desk: {url: https://hooks.example.com/x, secret: env:REEFD_DESK_SECRET}}\n"
    [endpoint] = parse_settings(text, "reefd.yaml").endpoints()
    assert endpoint.secrets == (SECRET,)


WRONG = {
    "hous: x": (2, 1, "did you mean 'house'?"),
    "venues: {a: {adapter: dydx-v3, url: http://x, markets: [A-B]}}": (2, 23, "found 'dydx-v3'; write dydx-v4"),
    "venues: {a: {adapter: dydx-v4, url: ftp://x, markets: [A-B]}}": (2, 37, "write a web address"),
    "venues: {a: {adapter: dydx-v4, url: http://u:p@x, markets: [A-B]}}": (2, 37, "leave it out"),
    "venues: {a: {adapter: dydx-v4, markets: [A-B]}}": (2, 10, "url is missing; write for example url: http://127.0.0.1:8480/v4"),
    "venues: {a: {adapter: dydx-v4, url: http://x, markets: []}}": (2, 47, "write at least one"),
    "venues: {a: {adapter: dydx-v4, url: http://x, markets: [btc]}}": (2, 47, "found the market 'btc'"),
    "venues: {a: {adapter: dydx-v4, url: http://x, markets: [A-B], acounts: {}}}": (2, 63, "did you mean 'accounts'?"),
    "venues: {a: {adapter: dydx-v4, url: http://x, markets: [A-B], accounts: {'x:y': {address: q}}}}": (2, 74, "has no colon"),
    "venues: {a: {adapter: dydx-v4, url: http://x, markets: [A-B], polls: {book: 1ms}}}": (2, 77, "write at least 100ms"),
    "venues: {a: {adapter: dydx-v4, url: http://x, markets: [A-B], taker_fee: 0.05}}": (2, 74, "write for example 5bps or 0.1%"),
    "venues: {a: {adapter: dydx-v4, url: http://x, markets: [A-B], taker_fee: 120%}}": (2, 74, "less than 1 is allowed"),
    "venues: {a: {adapter: dydx-v4, url: http://x, markets: [A-B], chain: foo}}": (2, 70, "there is no chain 'foo'; none is configured"),
    "clock: {follow: moon}": (2, 17, "found 'moon'; write wall or venue"),
    "clock: {follow: venue}": (2, 17, "0 venues are configured"),
    "channels: {desk: [dek]}": (2, 12, "there is no webhook 'dek'; none is configured"),
    "lateness: [1]": (2, 1, "write `key: value` lines under it"),
    "house: {a: b}": (2, 1, "write a single text"),
    "chains: {ethereum: }": (2, 1, "without a bridge"),
    "house: a\nhouse: b": (3, 1, "written twice"),
    "house:\n\tx: y": (3, 1, "found a tab"),
}


@pytest.mark.parametrize("text", WRONG)
def test_each_mistake_names_its_place_and_what_to_write(text: str) -> None:
    line, column, said = WRONG[text]
    found = complaints("\n" + text + "\n")
    place = re.match(r"reefd\.yaml:(\d+):(\d+): error C00\d", found[0])
    assert place is not None, found
    assert (int(place[1]), int(place[2])) == (line, column)
    assert said in found[0]


def test_all_mistakes_come_at_once_in_file_order() -> None:
    found = complaints("hous: x\nclock: {follow: moon}\nvenues: {a: {adapter: dydx-v4, url: x, markets: [A-B]}}\nlog: {format: xml}\n")
    assert [line.split(":")[1] for line in found] == ["1", "2", "3", "4"]


def test_references_between_sections_are_checked() -> None:
    bridge = "bridge: {adapter: simulated, url: http://127.0.0.1:1, governance: dydy}\n"
    found = complaints(VENUE + bridge + "chains: {ethereum: }\nbuffers: {etherium: }\nroutes: {r: {from: ethereum, to: dydxx}}\n")
    assert [re.sub(r".* in (\S+): ", r"\1 ", line) for line in found] == [
        "bridge.governance there is no venue 'dydy'; did you mean 'dydx'?",
        "buffers.etherium there is no chain 'etherium'; did you mean 'ethereum'?",
        "routes.r.to there is no chain, venue or account 'dydxx'; did you mean 'dydx'?",
    ]


def test_cadences_that_the_venue_would_refuse_are_a_mistake() -> None:
    assert "poll less often" in complaints(VENUE.rstrip() + "\n    polls: {book: 100ms}\n")[0]


def test_secret_written_into_the_file_is_refused_and_never_shown() -> None:
    for webhooks in (f"webhooks: {{desk: {{url: ftp://x, secret: {SECRET}}}}}\n", f"webhooks: {{desk: {SECRET}}}\n"):
        with pytest.raises(SettingsError) as caught:
            parse_settings(VENUE + webhooks, "reefd.yaml")
        assert "write env:NAME or file:PATH" in str(caught.value)
        assert SECRET not in str(caught.value)


def test_unencrypted_endpoint_needs_allow_private() -> None:
    webhook = "webhooks: {{desk: {{url: http://example.com/x, secret: env:DESK{}}}}}\n"
    assert "write https://" in complaints(VENUE + webhook.format(""))[0]
    assert parse_settings(VENUE + webhook.format(", allow_private: true"), "reefd.yaml").webhooks["desk"].allow_private


def test_secrets_are_read_at_once_and_every_unreadable_one_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "good").write_text(SECRET + "\n", encoding="utf-8")
    (tmp_path / "bad").write_text("whsec_!!", encoding="utf-8")
    monkeypatch.delenv("DESK", raising=False)
    text = (
        VENUE
        + "webhooks:\n"
        + "".join(
            f"  {name}: {{url: https://hooks.example.com/{name}, secret: {reference}}}\n"
            for name, reference in {"a": "env:DESK", "b": f"file:{tmp_path}/none", "c": f"file:{tmp_path}/bad"}.items()
        )
    )
    settings = parse_settings(text + f"  d: {{url: https://hooks.example.com/d, secret: file:{tmp_path}/good}}\n", "reefd.yaml")
    with pytest.raises(SettingsError) as caught:
        settings.endpoints()
    lines = str(caught.value).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("webhooks.a.secret: the variable DESK is not set")
    assert "whsec_!!" not in str(caught.value)


def test_missing_file_says_which_one_is_shipped(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.yaml: no such file or directory; .*config/reefd\.yaml"):
        load_settings(tmp_path / "none.yaml")


@pytest.mark.parametrize(("content", "said"), [(b"", "the file is empty"), (b"\xff\xfe", "not UTF-8"), (b"- a\n", "found a list")])
def test_file_that_is_no_settings_is_one_message(content: bytes, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse_settings(content, "reefd.yaml")


def test_documentation_names_every_setting_and_no_other() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").partition("## Webhooks")[0]
    documented = set(re.findall(r"^\| `([a-z0-9_.*]+)`", text, flags=re.MULTILINE))
    assert documented == set(_keys(Settings, ""))


def _keys(annotation: object, path: str) -> list[str]:
    """Dotted keys of all settings, `*` for a name the user chooses."""
    model = module._model_in(annotation)
    if model is None:
        if module.get_origin(annotation) is dict:
            value = module.get_args(annotation)[1]
            nested = value if module.get_origin(value) is dict or module._model_in(value) else None
            return _keys(nested, f"{path}.*") if nested else [f"{path}.*"]
        return [path]
    keys = [
        key
        for name, field in model.model_fields.items()
        for key in _keys(field.annotation, f"{path}.{field.alias or name}" if path else field.alias or name)
    ]
    return keys or [path]


def test_the_folder_of_compiled_replays_is_no_setting_and_stops_no_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    without = parse_settings(VENUE, "reefd.yaml")
    monkeypatch.setenv("REEFD_CACHE_DIR", "compiled")
    assert parse_settings(VENUE, "reefd.yaml") == without


def test_stress_is_off_without_its_section_and_its_mistakes_say_what_to_write() -> None:
    assert parse_settings(VENUE, "reefd.yaml").stress is None
    stress = parse_settings(VENUE + "stress: {world: config/worlds/calm.yaml, horizon: 48h, every: 30m}\n", "reefd.yaml").stress
    assert stress is not None
    assert (stress.world, stress.paths, stress.every, stress.horizon) == (
        Path("config/worlds/calm.yaml"), 1_000, 30 * MINUTE_NS, 48 * 60 * MINUTE_NS,
    )  # fmt: skip
    said = complaints(VENUE + "stress: {every: 1m, horizon: 90m, timeout: 0s, paths: 9, missed: always}\n")
    assert any("world is missing; write for example world: config/worlds/calm.yaml" in line for line in said)
    assert any("found 1m; write a duration from 5m to 24h" in line for line in said)
    assert any("found 1h30m; write whole hours, for example 24h" in line for line in said)
    assert any("from 1s to 24h" in line for line in said)
    assert len(said) == 6


def test_heartbeat_has_an_address_and_a_cadence_within_bounds() -> None:
    settings = parse_settings("heartbeat: {url: 'https://watch.example.com/ping', every: 2m}", "reefd.yaml")
    endpoint = settings.heartbeat_endpoint()
    assert endpoint is not None
    assert (endpoint.url, endpoint.secrets, endpoint.allow_private) == ("https://watch.example.com/ping", (), False)
    with pytest.raises(SettingsError, match="from 10s to 1h"):
        parse_settings("heartbeat: {url: 'https://watch.example.com/ping', every: 1s}", "reefd.yaml")


# --- the operator's surface ------------------------------------------------------------------------------------------------


def test_reading_is_open_on_the_loopback_alone_and_not_behind_a_proxy() -> None:
    assert parse_settings(VENUE, "reefd.yaml").http.reading_is_open()
    for written in ("http: {host: 0.0.0.0}", "http: {public_url: https://reefd.example.com}", "http: {hosts: [reefd.lan]}"):
        assert not parse_settings(VENUE + written, "reefd.yaml").http.reading_is_open(), written
    assert parse_settings(VENUE + "http: {hosts: [reefd.lan], open_reading: true}", "reefd.yaml").http.reading_is_open()
    assert not parse_settings(VENUE + "http: {open_reading: false}", "reefd.yaml").http.reading_is_open()


def test_a_surface_that_others_can_reach_needs_a_token(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.yaml"
    settings = parse_settings(f"{VENUE}http: {{host: 0.0.0.0, tokens: {tokens}}}", "reefd.yaml")
    with pytest.raises(SettingsError, match=r"reefd token new NAME --role admin, or write host: 127\.0\.0\.1"):
        settings.listens()
    tokens.write_text("tokens:\n", encoding="utf-8")
    with pytest.raises(SettingsError, match="there is no token"):
        settings.listens()
    tokens.write_text("tokens:\n  - name: ana\n", encoding="utf-8")
    assert settings.listens() == settings.http
    assert parse_settings(VENUE + "http: {host: 0.0.0.0, enabled: false}", "reefd.yaml").listens() is None
    assert parse_settings(VENUE, "reefd.yaml").listens() is not None


def test_the_port_of_the_surface_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REEFD_HTTP__PORT", "9001")
    monkeypatch.setenv("REEFD_TOKEN", "reefd_of-the-command-line")
    assert parse_settings(VENUE, "reefd.yaml").http.own_url() == "http://127.0.0.1:9001"
    assert parse_settings(VENUE + "http: {host: '::1'}", "reefd.yaml").http.own_url() == "http://[::1]:9001"


def test_a_host_name_with_a_scheme_or_a_port_is_refused() -> None:
    (complaint,) = complaints(VENUE + "http:\n  hosts: ['https://reefd.example.com']\n")
    assert "write names without scheme and port, for example reefd.example.com" in complaint
    (complaint,) = complaints(VENUE + "http: {port: 99999}\n")
    assert "http.port" in complaint


def test_tokens_and_reports_lie_beside_the_journal_where_nothing_else_is_said() -> None:
    http = parse_settings("journal: {path: /srv/a/state.db}\nhttp: {reports: /srv/reports}", "reefd.yaml").http
    assert (http.tokens, http.operator_token) == (Path("/srv/a/tokens.yaml"), Path("/srv/a/operator.token"))
    assert http.reports == Path("/srv/reports")
    assert parse_settings("house: x", "reefd.yaml").http.tokens == Path("var/tokens.yaml")
