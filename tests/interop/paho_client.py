"""paho-mqtt plays the scenario of tests/interop (see main.rs).

Arguments: v31, v311 or v5; the ports of three nodes; a prefix for names.
"""

import queue
import socket
import sys
import time

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE_S = 30
PROTOCOLS = {"v31": mqtt.MQTTv31, "v311": mqtt.MQTTv311, "v5": mqtt.MQTTv5}
VERSION, FIRST, SECOND, THIRD, PREFIX = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
IS_V5 = VERSION == "v5"


class Peer:
    """One client, connected to one node."""

    def __init__(self, role, port, persistent=False, will=None):
        self.messages, self.subscribed = queue.Queue(), queue.Queue()
        flags, reason = self.connect(role, port, persistent, will)
        deadline = time.monotonic() + PATIENCE_S
        # A node that cannot reach the others for a moment says so.
        while reason == "Server unavailable" and time.monotonic() < deadline:
            self.client.loop_stop()
            time.sleep(0.1)
            flags, reason = self.connect(role, port, persistent, will)
        assert not reason.is_failure, reason
        self.session_present = flags.session_present

    def connect(self, role, port, persistent, will):
        options = {} if IS_V5 else {"clean_session": not persistent}
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=f"{PREFIX}-{role}",
            protocol=PROTOCOLS[VERSION],
            reconnect_on_failure=False,
            **options,
        )
        connected = queue.Queue()
        self.client.on_connect = lambda _c, _u, flags, reason, _p: connected.put((flags, reason))
        self.client.on_message = lambda _c, _u, message: self.messages.put(message)
        self.client.on_subscribe = lambda _c, _u, _mid, reasons, _p: self.subscribed.put(reasons)
        if will is not None:
            self.client.will_set(will, "the will", qos=1)
        if IS_V5:
            properties = Properties(PacketTypes.CONNECT)
            properties.SessionExpiryInterval = 600 if persistent else 0
            self.client.connect("127.0.0.1", port, clean_start=not persistent, properties=properties)
        else:
            self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        return connected.get(timeout=PATIENCE_S)

    def subscribe(self, topic_filter, qos):
        self.client.subscribe(topic_filter, qos=qos)
        (reason,) = self.subscribed.get(timeout=PATIENCE_S)
        assert reason.value == qos, f"{topic_filter} at {qos}: {reason}"

    def publish(self, topic, payload, qos, retain=False):
        self.client.publish(topic, payload, qos=qos, retain=retain).wait_for_publish(PATIENCE_S)

    def expect(self, expected):
        """The messages that come next, in any order, as payload and QoS."""
        messages = [self.messages.get(timeout=PATIENCE_S) for _ in expected]
        found = sorted((message.payload.decode(), message.qos) for message in messages)
        assert found == sorted(expected), f"{found} instead of {sorted(expected)}"
        return messages

    def vanish(self):
        self.client.socket().shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


def qos_matrix(subscriber, publisher):
    for granted in (0, 1, 2):
        topic = f"{PREFIX}/matrix/{granted}"
        subscriber.subscribe(topic, granted)
        for qos in (0, 1, 2):
            publisher.publish(topic, f"{qos}", qos)
        subscriber.expect([(f"{qos}", min(qos, granted)) for qos in (0, 1, 2)])


def retained(subscriber, publisher):
    topic = f"{PREFIX}/retained"
    publisher.publish(topic, "kept", 1, retain=True)
    subscriber.subscribe(topic, 1)
    (message,) = subscriber.expect([("kept", 1)])
    assert message.retain, "not marked as retained"
    publisher.publish(topic, b"", 1, retain=True)
    (message,) = subscriber.expect([("", 1)])
    assert not message.retain, "a live message is marked as retained"


def shared(publisher):
    topic = f"{PREFIX}/shared"
    members = [Peer("member-1", FIRST), Peer("member-2", THIRD)]
    for member in members:
        member.subscribe(f"$share/group/{topic}", 1)
    expected = [f"{number}" for number in range(40)]
    for payload in expected:
        publisher.publish(topic, payload, 1)
    # What follows comes after all of the above to each of them.
    for member in members:
        member.subscribe(f"{topic}/end", 1)
    publisher.publish(f"{topic}/end", "end", 1)
    found = []
    for member in members:
        payloads = iter(lambda: member.messages.get(timeout=PATIENCE_S).payload.decode(), "end")
        shares = list(payloads)
        assert shares, "a member of the group got nothing"
        found.extend(shares)
        member.close()
    assert sorted(found) == sorted(expected), found


def will(subscriber):
    topic = f"{PREFIX}/will"
    subscriber.subscribe(topic, 1)
    Peer("mortal", THIRD, will=topic).vanish()
    subscriber.expect([("the will", 1)])


def resumed_elsewhere(subscriber, publisher):
    topic = f"{PREFIX}/queued"
    subscriber.subscribe(topic, 2)
    print("ready", flush=True)
    assert sys.stdin.readline() == "killed\n"
    subscriber.client.loop_stop()
    for number in range(3):
        publisher.publish(topic, f"one-{number}", 1)
        publisher.publish(topic, f"two-{number}", 2)
    subscriber = Peer("subscriber", THIRD, persistent=True)
    # 3.1 has no such flag.
    assert subscriber.session_present or VERSION == "v31", "the session is lost"
    subscriber.expect([(f"{word}-{n}", qos) for n in range(3) for word, qos in (("one", 1), ("two", 2))])
    publisher.publish(topic, "live", 2)
    subscriber.expect([("live", 2)])
    return subscriber


def main():
    subscriber = Peer("subscriber", FIRST, persistent=True)
    assert not subscriber.session_present
    publisher = Peer("publisher", SECOND)
    qos_matrix(subscriber, publisher)
    retained(subscriber, publisher)
    shared(publisher)
    will(subscriber)
    subscriber = resumed_elsewhere(subscriber, publisher)
    subscriber.close()
    publisher.close()
    print("done", flush=True)


main()
