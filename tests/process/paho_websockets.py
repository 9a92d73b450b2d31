"""paho-mqtt over WebSocket and over WebSocket with TLS: QoS 0, 1 and 2 from one to the other.

Usage: paho_websockets.py WS_PORT WSS_PORT CA_FILE
"""

import sys
import threading

import paho.mqtt.client as mqtt

WAIT_S = 30
ws_port, wss_port, ca_file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]


def client(port, ca=None):
    made = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, transport="websockets", protocol=mqtt.MQTTv5)
    made.ws_set_options(path="/mqtt")
    if ca:
        made.tls_set(ca_certs=ca)
    connected = threading.Event()
    made.on_connect = lambda *_: connected.set()
    made.connect("localhost", port)
    made.loop_start()
    assert connected.wait(WAIT_S), f"not connected to {port}"
    return made


def check(subscriber, publisher):
    received, subscribed, done = [], threading.Event(), threading.Event()

    def on_message(_client, _userdata, message):
        received.append((message.qos, message.payload))
        if len(received) == 3:
            done.set()

    subscriber.on_message = on_message
    subscriber.on_subscribe = lambda *_: subscribed.set()
    subscriber.subscribe("paho/ws", 2)
    assert subscribed.wait(WAIT_S), "not subscribed"
    for qos in (0, 1, 2):
        # Longer than one frame of the broker.
        publisher.publish("paho/ws", bytes([qos]) * 100_000, qos).wait_for_publish(WAIT_S)
    assert done.wait(WAIT_S), f"received {len(received)}"
    assert sorted(received) == [(qos, bytes([qos]) * 100_000) for qos in (0, 1, 2)]
    subscriber.unsubscribe("paho/ws")


plain, encrypted = client(ws_port), client(wss_port, ca_file)
check(plain, encrypted)
check(encrypted, plain)
for one in (plain, encrypted):
    one.disconnect()
    one.loop_stop()
print("paho works over WebSockets")
