"""aiomqtt plays the scenario of tests/interop (see main.rs).

Arguments: v31, v311 or v5; the ports of three nodes; a prefix for names.
"""

import asyncio
import contextlib
import socket
import sys
import time

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE_S = 30
PROTOCOLS = {
    "v31": aiomqtt.ProtocolVersion.V31,
    "v311": aiomqtt.ProtocolVersion.V311,
    "v5": aiomqtt.ProtocolVersion.V5,
}
VERSION, FIRST, SECOND, THIRD, PREFIX = sys.argv[1], *map(int, sys.argv[2:5]), sys.argv[5]
IS_V5 = VERSION == "v5"


@contextlib.asynccontextmanager
async def client(role, port, persistent=False, **options):
    """A client that is connected to one node."""
    if IS_V5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 600 if persistent else 0
        options |= {"clean_start": not persistent, "properties": properties}
    else:
        options |= {"clean_session": not persistent}
    deadline = time.monotonic() + PATIENCE_S
    async with contextlib.AsyncExitStack() as stack:
        while True:
            peer = aiomqtt.Client(
                "127.0.0.1", port, identifier=f"{PREFIX}-{role}", protocol=PROTOCOLS[VERSION], **options
            )
            try:
                await stack.enter_async_context(peer)
                break
            except aiomqtt.MqttError as error:
                # A node that cannot reach the others for a moment says so.
                if "Server unavailable" not in str(error) or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
        yield peer


async def take(peer):
    return await asyncio.wait_for(anext(peer.messages), PATIENCE_S)


async def expect(peer, expected):
    messages = [await take(peer) for _ in expected]
    found = sorted((message.payload.decode(), message.qos) for message in messages)
    assert found == sorted(expected), f"{found} instead of {sorted(expected)}"
    return messages


async def qos_matrix(subscriber, publisher):
    for granted in (0, 1, 2):
        topic = f"{PREFIX}/matrix/{granted}"
        await subscriber.subscribe(topic, qos=granted)
        for qos in (0, 1, 2):
            await publisher.publish(topic, f"{qos}", qos=qos)
        await expect(subscriber, [(f"{qos}", min(qos, granted)) for qos in (0, 1, 2)])


async def retained(subscriber, publisher):
    topic = f"{PREFIX}/retained"
    await publisher.publish(topic, "kept", qos=1, retain=True)
    await subscriber.subscribe(topic, qos=1)
    (message,) = await expect(subscriber, [("kept", 1)])
    assert message.retain, "not marked as retained"
    await publisher.publish(topic, b"", qos=1, retain=True)
    (message,) = await expect(subscriber, [("", 1)])
    assert not message.retain, "a live message is marked as retained"


async def shared(publisher):
    topic = f"{PREFIX}/shared"
    expected = [f"{number}" for number in range(40)]
    found = []
    async with client("member-1", FIRST) as one, client("member-2", THIRD) as two:
        for member in (one, two):
            await member.subscribe(f"$share/group/{topic}", qos=1)
        for payload in expected:
            await publisher.publish(topic, payload, qos=1)
        # What follows comes after all of the above to each of them.
        for member in (one, two):
            await member.subscribe(f"{topic}/end", qos=1)
        await publisher.publish(f"{topic}/end", "end", qos=1)
        for member in (one, two):
            shares = []
            while (payload := (await take(member)).payload.decode()) != "end":
                shares.append(payload)
            assert shares, "a member of the group got nothing"
            found.extend(shares)
    assert sorted(found) == sorted(expected), found


async def will(subscriber):
    topic = f"{PREFIX}/will"
    await subscriber.subscribe(topic, qos=1)
    last = aiomqtt.Will(topic, "the will", qos=1)
    try:
        async with client("mortal", THIRD, will=last) as mortal:
            # There is no public way to vanish.
            mortal._client.socket().shutdown(socket.SHUT_RDWR)
            await take(mortal)
    except aiomqtt.MqttError:
        pass
    await expect(subscriber, [("the will", 1)])


async def until_killed():
    print("ready", flush=True)
    line = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    assert line == "killed\n"


async def main():
    async with client("publisher", SECOND) as publisher:
        topic = f"{PREFIX}/queued"
        try:
            async with client("subscriber", FIRST, persistent=True) as subscriber:
                await qos_matrix(subscriber, publisher)
                await retained(subscriber, publisher)
                await shared(publisher)
                await will(subscriber)
                await subscriber.subscribe(topic, qos=2)
                await until_killed()
                await take(subscriber)
                raise AssertionError("the node is dead, and its client was sent something")
        except aiomqtt.MqttError:
            pass
        for number in range(3):
            await publisher.publish(topic, f"one-{number}", qos=1)
            await publisher.publish(topic, f"two-{number}", qos=2)
        async with client("subscriber", THIRD, persistent=True) as subscriber:
            words = (("one", 1), ("two", 2))
            await expect(subscriber, [(f"{word}-{n}", qos) for n in range(3) for word, qos in words])
            await publisher.publish(topic, "live", qos=2)
            await expect(subscriber, [("live", 2)])
    print("done", flush=True)


asyncio.run(main())
