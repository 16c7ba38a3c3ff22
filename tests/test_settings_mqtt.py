"""The section `mqtt:` of the settings: what may be written, and what is said when it does not fit together."""

from __future__ import annotations

from pathlib import Path

import pytest
import trustme

from daemon.errors import SettingsError
from daemon.settings import Settings, parse_settings
from daemon.world.entities import Kind

VENUE = """
house: desk
venues:
  dydx: {adapter: dydx-v4, url: "http://127.0.0.1:1/v4", markets: [BTC-USD], accounts: {main: {address: dydx1}}}
"""


def read(mqtt: str, rest: str = "") -> Settings:
    return parse_settings(f"{VENUE}mqtt: {mqtt}\n{rest}", "s.yaml")


def test_a_broker_on_this_machine_needs_a_host_and_nothing_else() -> None:
    broker = read("{host: 127.0.0.1}").mqtt_broker()
    assert broker is not None
    assert (broker.host, broker.port, broker.client_id, broker.tls, broker.password) == ("127.0.0.1", 1883, "reefd-desk", None, None)
    assert broker.address == "mqtt://127.0.0.1:1883"
    assert parse_settings(VENUE, "s.yaml").mqtt_broker() is None


def test_secrets_and_certificates_are_read_from_where_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("REEFD_MQTT_PASSWORD", "hush")
    settings = read(f"{{host: b.example.com, tls: true, ca: {tmp_path / 'ca.pem'}, username: reefd, password: env:REEFD_MQTT_PASSWORD}}")
    broker = settings.mqtt_broker()
    assert broker is not None
    assert (broker.port, broker.username, broker.password) == (8883, "reefd", "hush")
    assert broker.tls is not None
    assert broker.tls.check_hostname
    assert "hush" not in repr(broker)


def test_what_cannot_be_read_is_told_at_the_start_and_all_at_once(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("nothing")
    settings = read(f"{{host: b.example.com, tls: true, ca: {tmp_path / 'no.pem'}, username: u, password: env:NOT_THERE}}")
    with pytest.raises(SettingsError) as told:
        settings.mqtt_broker()
    assert "mqtt.password: the variable NOT_THERE is not set; set it to the password of the MQTT broker" in str(told.value)
    assert "mqtt.tls: a certificate cannot be used" in str(told.value)


@pytest.mark.parametrize(
    ("mqtt", "message"),
    [
        ("{}", "host is missing; write for example host: 127.0.0.1"),
        ("{host: b.example.com}", "write tls: true, or allow_plain: true for a network of your own"),
        ("{host: 127.0.0.1, ca: ca.pem}", "nothing is encrypted without tls; write tls: true"),
        ("{host: 127.0.0.1, tls: true, key: k.pem}", "there is no certificate to it; write certificate: PATH"),
        ("{host: 127.0.0.1, password: env:X}", "there is no username to it"),
        ("{host: 127.0.0.1, username: u, password: hunter2}", "a secret is not written into the settings; write env:NAME or file:PATH"),
        ("{host: 127.0.0.1, prefix: a/#}", "a prefix is levels of a topic without +, # and $"),
        ("{host: 127.0.0.1, feed: [planet]}", "found 'planet'; write a kind (bucket, chain, venue, account, market, position, route)"),
        ("{host: 127.0.0.1, feed: [portfolio]}", "found 'portfolio'; write a kind"),
        ("{host: 127.0.0.1, feed: [market.index_prise]}", "no observed signal of a market; did you mean market.index_price?"),
        ("{host: 127.0.0.1, feed: [market.mid_price]}", "no observed signal of a market"),
        ("{host: 127.0.0.1, comands: true}", "'comands' is no key of the settings; did you mean 'commands'?"),
        ("{host: 127.0.0.1, fallback: pager}", "there is no webhook 'pager'"),
        ("{host: 127.0.0.1, port: 0}", "found '0'"),
    ],
)
def test_what_does_not_fit_is_told_with_what_to_write(mqtt: str, message: str) -> None:
    with pytest.raises(SettingsError) as told:
        read(mqtt)
    assert message in str(told.value)
    assert "hunter2" not in str(told.value)


def test_a_channel_reaches_the_broker_by_its_name_only_where_there_is_one() -> None:
    assert read("{host: 127.0.0.1}", "channels: {desk: [mqtt]}").channels == {"desk": ("mqtt",)}
    with pytest.raises(SettingsError, match="there is no webhook 'mqtt'"):
        parse_settings(f"{VENUE}channels: {{desk: [mqtt]}}", "s.yaml")
    webhook = "webhooks: {mqtt: {url: 'https://example.com', secret: env:X}}"
    with pytest.raises(SettingsError, match="in a channel this name means the MQTT broker"):
        read("{host: 127.0.0.1}", webhook)


def test_what_may_come_in_is_by_kind_or_by_signal() -> None:
    settings = read("{host: 127.0.0.1, feed: [market.index_price, market.mark_price, chain]}")
    assert settings.mqtt is not None
    fed = settings.mqtt.fed()
    assert fed[Kind.MARKET] == {"index_price", "mark_price"}
    assert {"sequencer_up", "gas_price"} <= fed[Kind.CHAIN]
    # A runbook that reads what only MQTT tells is in order; one that reads what nobody tells is not.
    provided = settings.topology().venues["dydx"].provides
    assert provided is not None
    assert {"index_price", "mark_price", "oracle_price"} <= provided[Kind.MARKET]
    assert "funding_samples" not in provided[Kind.MARKET]


def test_what_an_adapter_tells_nobody_else_may() -> None:
    rest = "bridge: {adapter: simulated, url: 'http://127.0.0.1:1'}\nchains: {base: }\nroutes: {cctp: {from: base, to: dydx}}"
    settings = read("{host: 127.0.0.1, feed: [market, chain]}", rest)
    assert "oracle_price" in settings.adapter_tells(Kind.MARKET, "dydx:BTC-USD")
    assert "index_price" not in settings.adapter_tells(Kind.MARKET, "dydx:BTC-USD")
    assert settings.adapter_tells(Kind.MARKET, "binance:BTC-USD") == frozenset()
    assert "size" in settings.adapter_tells(Kind.POSITION, "main:BTC-USD")
    assert "collateral" in settings.adapter_tells(Kind.ACCOUNT, "main")
    assert settings.adapter_tells(Kind.ACCOUNT, "elsewhere") == frozenset()
    assert "venue_up" in settings.adapter_tells(Kind.VENUE, "dydx")
    assert "sequencer_up" in settings.adapter_tells(Kind.CHAIN, "base")
    assert settings.adapter_tells(Kind.CHAIN, "optimism") == frozenset()
    assert "route_open" in settings.adapter_tells(Kind.ROUTE, "cctp")


def test_chains_without_a_bridge_are_in_order_when_mqtt_tells_of_them() -> None:
    assert read("{host: 127.0.0.1, feed: [chain]}", "chains: {base: }").chains
    with pytest.raises(SettingsError, match="nobody tells of these without a bridge"):
        read("{host: 127.0.0.1, feed: [market]}", "chains: {base: }")
