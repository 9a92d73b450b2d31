"""paho-mqtt against a cluster: QoS 0, 1 and 2 from one node to another, with a persistent session.

Arguments: the port of the subscriber's node, the port of the publisher's node, v3 or v5.
"""

import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE_S = 30


def connect(client_id, port, version, on_message=None):
    protocol = mqtt.MQTTv5 if version == "v5" else mqtt.MQTTv311
    options = {} if version == "v5" else {"clean_session": False}
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, protocol=protocol, **options)
    connected = queue.Queue()
    client.on_connect = lambda _client, _data, flags, reason, _properties: connected.put((flags, reason))
    client.on_message = on_message
    if version == "v5":
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 600
        client.connect("127.0.0.1", port, clean_start=False, properties=properties)
    else:
        client.connect("127.0.0.1", port)
    client.loop_start()
    flags, reason = connected.get(timeout=PATIENCE_S)
    assert not reason.is_failure, reason
    return client, flags.session_present


def close(client):
    client.disconnect()
    client.loop_stop()


def main():
    subscriber_port, publisher_port, version = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    received = queue.Queue()
    topic = f"paho/{version}"

    def on_message(_client, _data, message):
        received.put((message.payload.decode(), message.qos))

    subscriber, present = connect(f"paho-subscriber-{version}", subscriber_port, version, on_message)
    assert not present
    subscribed = queue.Queue()
    subscriber.on_subscribe = lambda *arguments: subscribed.put(arguments)
    subscriber.subscribe(topic, qos=2)
    subscribed.get(timeout=PATIENCE_S)

    publisher, _ = connect(f"paho-publisher-{version}", publisher_port, version)

    def publish(name):
        for qos in (0, 1, 2):
            publisher.publish(topic, f"{name}-{qos}", qos=qos).wait_for_publish(timeout=PATIENCE_S)

    def expect(*messages):
        got = [received.get(timeout=PATIENCE_S) for _ in messages]
        assert sorted(got) == sorted(messages), f"{got} instead of {messages}"

    publish("live")
    expect(("live-0", 0), ("live-1", 1), ("live-2", 2))

    # On the other node, messages that were published meanwhile.
    close(subscriber)
    publish("queued")
    subscriber, present = connect(f"paho-subscriber-{version}", publisher_port, version, on_message)
    assert present, "the session is lost"
    expected = [("queued-1", 1), ("queued-2", 2)]
    got = [received.get(timeout=PATIENCE_S) for _ in expected]
    # A QoS 0 message may be kept for an offline session, or not.
    if ("queued-0", 0) in got:
        got.append(received.get(timeout=PATIENCE_S))
    assert [message for message in sorted(got) if message[1]] == expected, got
    close(subscriber)
    close(publisher)
    print("paho works")


main()
