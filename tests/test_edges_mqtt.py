"""MQTT on the wire, against a real mosquitto where there is one and against the small broker always: the test's id says which."""

from __future__ import annotations

import asyncio
import signal
import ssl
import time
from contextlib import suppress
from pathlib import Path

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from mqtt_world import PROGRAMS, BrokerProcess, Listener, Program, broker, descriptors, said, stranger, until
from service_processes import free_port

from daemon.edges.broker import Broker, Connection, Incoming, Outgoing, Subscription, Tls, level, name_of
from daemon.edges.mqtt import WAITING_MAX, MqttWire
from daemon.errors import EdgeError

WILL = Outgoing(topic="reefd/status", payload=b"offline", retain=True)
assert broker  # the fixture


async def test_a_message_arrives_with_its_id_its_expiry_and_the_broker_says_whether_anybody_listens(broker: BrokerProcess) -> None:
    message = Outgoing(topic="reefd/notice/critical", payload=b"{}", expiry_s=60, properties={"id": "spike/1.page.7"})
    async with MqttWire(broker.at()).connect(None) as connection:
        alone = await connection.publish(message)
        async with Listener(broker, "reefd/notice/#") as listener:
            together = await connection.publish(message)
            await until(lambda: listener.heard)
    assert (alone.refused, alone.heard) == ("", False)
    assert (together.refused, together.heard) == ("", True)
    (got,) = listener.heard
    assert got.properties == {"id": "spike/1.page.7"}
    assert got.expiry_s is not None
    assert 55 <= got.expiry_s <= 60
    assert not got.retained


async def test_a_retained_message_is_forgotten_by_the_broker_when_it_expires(broker: BrokerProcess) -> None:
    async with MqttWire(broker.at()).connect(None) as connection:
        await connection.publish(Outgoing(topic="reefd/gate", payload=b"open", retain=True, expiry_s=1))
        await connection.publish(Outgoing(topic="reefd/audit/head", payload=b"7:ab", retain=True))
        async with Listener(broker, "reefd/#", client_id="early") as early:
            await until(lambda: early.of("reefd/gate"))
        began, number = time.monotonic(), 0
        while time.monotonic() - began < 60.0:
            number += 1
            async with Listener(broker, "reefd/#", client_id=f"late-{number}") as late:
                await until(lambda late=late: late.of("reefd/audit/head"))
                if not late.of("reefd/gate"):
                    return
    raise AssertionError("the gate's answer outlived its expiry by far")


async def test_the_will_is_published_when_the_connection_is_cut_and_not_after_a_good_end(broker: BrokerProcess) -> None:
    async with Listener(broker, "reefd/status") as listener:
        async with MqttWire(broker.at()).connect(WILL) as connection:
            await connection.publish(Outgoing(topic="reefd/status", payload=b"online", retain=True))
        async with MqttWire(broker.at()).connect(WILL) as connection:
            await connection.publish(Outgoing(topic="reefd/status", payload=b"again", retain=True))
        with suppress(ZeroDivisionError):
            async with MqttWire(broker.at()).connect(WILL) as connection:
                raise ZeroDivisionError
        await until(lambda: listener.last("reefd/status") == "offline")
    assert [one.text for one in listener.heard] == ["online", "again", "offline"]


async def test_what_comes_in_is_read_commands_first_and_tells_what_was_stored(broker: BrokerProcess) -> None:
    async with stranger(broker) as somebody:
        await said(somebody, "reefd/feed/chain/base", "old", retain=True)
        await said(somebody, "reefd/command", "stored halt", retain=True)
        async with MqttWire(broker.at()).connect(None) as connection:
            assert await connection.subscribe(Subscription(topics="reefd/feed/+/+")) == ""
            assert await connection.subscribe(Subscription(topics="reefd/command", stored=False)) == ""
            await said(somebody, "reefd/feed/chain/base", "new")
            await said(somebody, "reefd/command", "halt", answer_to="answers/ana", correlation=b"7")
            await until(lambda: connection._client.waiting.qsize() == 3)  # type: ignore[attr-defined]
            got = [await read(connection) for _ in range(3)]
    assert [(one.topic, one.payload, one.retained) for one in got] == [
        ("reefd/command", b"halt", False),
        ("reefd/feed/chain/base", b"old", True),
        ("reefd/feed/chain/base", b"new", False),
    ]
    assert (got[0].response_topic, got[0].correlation) == ("answers/ana", b"7")


async def read(connection: Connection) -> Incoming:
    async with asyncio.timeout(10):
        return await anext(connection.messages())


async def test_a_flood_loses_the_oldest_observations_but_no_command(broker: BrokerProcess) -> None:
    more = 50
    async with stranger(broker) as somebody, MqttWire(broker.at()).connect(None) as connection:
        await connection.subscribe(Subscription(topics="reefd/#"))
        await said(somebody, "reefd/command", "halt")
        for number in range(WAITING_MAX + more):
            await somebody.publish("reefd/feed/chain/base", str(number), qos=0)
        await said(somebody, "reefd/feed/chain/base", "last")
        await until(lambda: connection.dropped == more + 1)
        assert (await read(connection)).payload == b"halt"
        assert (await read(connection)).payload == str(more + 1).encode()


async def test_the_end_of_the_broker_ends_sending_and_reading_at_once(broker: BrokerProcess) -> None:
    async with MqttWire(broker.at(timeout_s=60)).connect(WILL) as connection:
        broker.signal(signal.SIGSTOP)
        sending = asyncio.create_task(connection.publish(Outgoing(topic="reefd/state", payload=b"{}")))
        await asyncio.sleep(0)
        broker.kill()
        with pytest.raises(EdgeError, match="is gone") as broken:
            await asyncio.wait_for(sending, 10)
        assert broken.value.retryable
        with pytest.raises(EdgeError, match="ended the connection"):
            await read(connection)


async def test_a_broker_that_hangs_is_given_up_after_the_timeout_and_leaves_nothing_open(broker: BrokerProcess) -> None:
    broker.signal(signal.SIGSTOP)
    wire = MqttWire(broker.at(timeout_s=0.2))
    before = descriptors()
    try:
        for _ in range(5):
            with pytest.raises(EdgeError, match=r"cannot connect to mqtt://127\.0\.0\.1"):
                async with wire.connect(WILL):
                    pass
        await until(lambda: descriptors() <= before)
    finally:
        broker.signal(signal.SIGCONT)


async def test_a_broker_that_is_not_there_is_an_edge_error_that_says_where() -> None:
    port = free_port()
    with pytest.raises(EdgeError, match=f"cannot connect to mqtt://127.0.0.1:{port}: .*refused") as broken:
        async with MqttWire(Broker(host="127.0.0.1", port=port, client_id="reefd")).connect(None):
            pass
    assert broken.value.retryable


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_wrong_password_and_a_forbidden_topic_are_told(program: Program, tmp_path: Path) -> None:
    server = BrokerProcess(program=program, folder=tmp_path, user="reefd", password="right", deny="reefd/notice/#")
    server.start()
    try:
        wrong = Broker(host="127.0.0.1", port=server.port, client_id="reefd", username="reefd", password="wrong")
        with pytest.raises(EdgeError, match=r"(?i)cannot connect .*(bad user|not authori)") as refused:
            async with MqttWire(wrong).connect(None):
                pass
        assert "wrong" not in str(refused.value)
        assert "wrong" not in repr(wrong)
        async with MqttWire(server.at()).connect(None) as connection:
            ack = await connection.publish(Outgoing(topic="reefd/notice/info", payload=b"{}"))
            assert "the broker refused it: Not authorized (0x87)" in ack.refused
            assert (await connection.publish(Outgoing(topic="reefd/state", payload=b"{}"))).refused == ""
    finally:
        server.kill()


@pytest.mark.parametrize("program", PROGRAMS)
async def test_tls_proves_the_broker_and_refuses_a_stranger(program: Program, tmp_path: Path) -> None:
    ours, other = trustme.CA(), trustme.CA()
    ours.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    certificate = ours.issue_cert("localhost", "127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    server = BrokerProcess(program=program, folder=tmp_path, certificate=str(tmp_path / "cert.pem"), key=str(tmp_path / "key.pem"))
    server.start()
    try:
        async with MqttWire(server.at(tls=Tls(ca=tmp_path / "ca.pem").prepared())).connect(WILL) as connection:
            assert (await connection.publish(Outgoing(topic="reefd/state", payload=b"{}" * 20_000, retain=True))).refused == ""
            await connection.subscribe(Subscription(topics="reefd/state"))
            assert len((await read(connection)).payload) == 40_000
        with pytest.raises(EdgeError, match=r"cannot connect to mqtts://localhost.*(?i:certificate)"):
            async with MqttWire(server.at(tls=Tls(ca=tmp_path / "other.pem").prepared())).connect(WILL):
                pass
        with pytest.raises(EdgeError, match="cannot connect"):
            async with MqttWire(server.at(timeout_s=2.0)).connect(WILL):  # no TLS at all
                pass
    finally:
        server.kill()


def test_a_certificate_file_that_is_none_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("nothing")
    with pytest.raises(OSError):  # noqa: PT011 - ssl.SSLError is one, its words are OpenSSL's
        Tls(ca=tmp_path / "no.pem").prepared()
    assert issubclass(ssl.SSLError, OSError)


@given(st.text(min_size=1, max_size=20))
def test_any_name_becomes_one_level_of_a_topic_and_back(name: str) -> None:
    try:
        written = level(name)
        written.encode()
    except UnicodeEncodeError:
        return
    assert not set(written) & set("/+#\0")
    if not set(name) & set("\0\n\r"):
        assert name_of(written) == name


@pytest.mark.parametrize("text", ["", "%FF", "%00", "x" * 300])
def test_a_level_that_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        name_of(text)
