/* The Eclipse Paho C client plays the scenario of tests/interop (see main.rs).
 *
 * Arguments: v31, v311 or v5; the ports of three nodes; a prefix for names. */

#include <MQTTClient.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE_MS = 30000, TEXT_MAX = 128, SHARED = 40 };

static int version;
static const char *first, *second, *third, *prefix;

#define CHECK(condition, ...)                                     \
    do {                                                          \
        if (!(condition)) {                                       \
            fprintf(stderr, "line %d: %s: ", __LINE__, #condition); \
            fprintf(stderr, __VA_ARGS__);                         \
            fprintf(stderr, "\n");                                \
            exit(1);                                              \
        }                                                         \
    } while (0)

/* `PREFIX/NAME`, or `PREFIX/NAME/NUMBER`; valid until the call after the next three. */
static const char *topic(const char *name, int number) {
    static char texts[4][TEXT_MAX];
    static int next;
    char *text = texts[next++ % 4];
    if (number < 0)
        snprintf(text, TEXT_MAX, "%s/%s", prefix, name);
    else
        snprintf(text, TEXT_MAX, "%s/%s/%d", prefix, name, number);
    return text;
}

/* Tries to connect; returns the code of CONNACK. */
static int try_to_connect(MQTTClient client, int persistent, const char *will_topic, int *present) {
    MQTTClient_connectOptions v3 = MQTTClient_connectOptions_initializer;
    MQTTClient_connectOptions v5 = MQTTClient_connectOptions_initializer5;
    MQTTClient_connectOptions options = version == MQTTVERSION_5 ? v5 : v3;
    options.MQTTVersion = version;
    options.keepAliveInterval = 30;
    MQTTClient_willOptions will = MQTTClient_willOptions_initializer;
    if (will_topic) {
        will.topicName = will_topic;
        will.message = "the will";
        will.qos = 1;
        options.will = &will;
    }
    int code;
    if (version == MQTTVERSION_5) {
        options.cleanstart = !persistent;
        MQTTProperty expiry = {.identifier = MQTTPROPERTY_CODE_SESSION_EXPIRY_INTERVAL};
        expiry.value.integer4 = persistent ? 600 : 0;
        MQTTProperties properties = MQTTProperties_initializer;
        MQTTProperties_add(&properties, &expiry);
        MQTTResponse response = MQTTClient_connect5(client, &options, &properties, NULL);
        code = response.reasonCode;
        MQTTResponse_free(response);
        MQTTProperties_free(&properties);
    } else {
        options.cleansession = !persistent;
        code = MQTTClient_connect(client, &options);
    }
    *present = options.returned.sessionPresent;
    return code;
}

/* Connects; says whether the session was present. */
static MQTTClient connect_to(const char *port, const char *role, int persistent, const char *will_topic,
                             int *present) {
    char uri[TEXT_MAX], id[TEXT_MAX];
    snprintf(uri, sizeof uri, "tcp://127.0.0.1:%s", port);
    snprintf(id, sizeof id, "%s-%s", prefix, role);
    MQTTClient client;
    MQTTClient_createOptions create = MQTTClient_createOptions_initializer;
    create.MQTTVersion = version;
    int code = MQTTClient_createWithOptions(&client, uri, id, MQTTCLIENT_PERSISTENCE_NONE, NULL, &create);
    CHECK(code == MQTTCLIENT_SUCCESS, "%s: %d", role, code);

    int unavailable = version == MQTTVERSION_5 ? MQTTREASONCODE_SERVER_UNAVAILABLE : 3, ignored;
    code = try_to_connect(client, persistent, will_topic, present ? present : &ignored);
    /* A node that cannot reach the others for a moment says so. */
    for (int waited_ms = 0; code == unavailable && waited_ms < PATIENCE_MS; waited_ms += 100) {
        usleep(100 * 1000);
        code = try_to_connect(client, persistent, will_topic, present ? present : &ignored);
    }
    CHECK(code == MQTTCLIENT_SUCCESS, "%s: %d", role, code);
    return client;
}

static void subscribe(MQTTClient client, const char *filter, int qos) {
    int code;
    if (version == MQTTVERSION_5) {
        MQTTResponse response = MQTTClient_subscribe5(client, filter, qos, NULL, NULL);
        code = (int)response.reasonCode == qos ? MQTTCLIENT_SUCCESS : (int)response.reasonCode;
        MQTTResponse_free(response);
    } else {
        code = MQTTClient_subscribe(client, filter, qos);
    }
    CHECK(code == MQTTCLIENT_SUCCESS, "%s at %d: %d", filter, qos, code);
}

static void publish(MQTTClient client, const char *to, const char *payload, int qos, int retained) {
    MQTTClient_deliveryToken token;
    int code, bytes = (int)strlen(payload);
    if (version == MQTTVERSION_5) {
        MQTTResponse response = MQTTClient_publish5(client, to, bytes, payload, qos, retained, NULL, &token);
        code = response.reasonCode;
        MQTTResponse_free(response);
    } else {
        code = MQTTClient_publish(client, to, bytes, payload, qos, retained, &token);
    }
    CHECK(code == MQTTCLIENT_SUCCESS, "%s: %d", to, code);
    code = qos ? MQTTClient_waitForCompletion(client, token, PATIENCE_MS) : MQTTCLIENT_SUCCESS;
    CHECK(code == MQTTCLIENT_SUCCESS, "%s at %d is not complete: %d", to, qos, code);
}

/* The next message as `PAYLOAD QOS`; says whether it is marked as retained. */
static int receive(MQTTClient client, char text[TEXT_MAX]) {
    char *name = NULL;
    int bytes, retained;
    MQTTClient_message *message = NULL;
    int code = MQTTClient_receive(client, &name, &bytes, &message, PATIENCE_MS);
    CHECK((code == MQTTCLIENT_SUCCESS || code == MQTTCLIENT_TOPICNAME_TRUNCATED) && message, "nothing came: %d", code);
    snprintf(text, TEXT_MAX, "%.*s %d", message->payloadlen, (char *)message->payload, message->qos);
    retained = message->retained;
    MQTTClient_freeMessage(&message);
    MQTTClient_free(name);
    return retained;
}

/* Receives `count` messages that must be those of `expected`, in any order. */
static void expect(MQTTClient client, int count, char expected[][TEXT_MAX]) {
    int seen[2 * SHARED] = {0};
    for (int n = 0; n < count; n++) {
        char text[TEXT_MAX];
        receive(client, text);
        int at = 0;
        while (at < count && (seen[at] || strcmp(text, expected[at])))
            at++;
        CHECK(at < count, "unexpected: %s", text);
        seen[at] = 1;
    }
}

static void expect_one(MQTTClient client, const char *expected, int retained) {
    char text[TEXT_MAX];
    int found = receive(client, text);
    CHECK(!strcmp(text, expected), "%s instead of %s", text, expected);
    CHECK(found == retained, "%s has RETAIN %d", text, found);
}

static void close_client(MQTTClient client) {
    int code = version == MQTTVERSION_5 ? MQTTClient_disconnect5(client, 1000, MQTTREASONCODE_NORMAL_DISCONNECTION, NULL)
                                        : MQTTClient_disconnect(client, 1000);
    CHECK(code == MQTTCLIENT_SUCCESS, "%d", code);
    MQTTClient_destroy(&client);
}

static void qos_matrix(MQTTClient subscriber, MQTTClient publisher) {
    for (int granted = 0; granted <= 2; granted++) {
        char expected[3][TEXT_MAX];
        subscribe(subscriber, topic("matrix", granted), granted);
        for (int qos = 0; qos <= 2; qos++) {
            char payload[TEXT_MAX];
            snprintf(payload, sizeof payload, "%d", qos);
            publish(publisher, topic("matrix", granted), payload, qos, 0);
            snprintf(expected[qos], TEXT_MAX, "%d %d", qos, qos < granted ? qos : granted);
        }
        expect(subscriber, 3, expected);
    }
}

static void retained(MQTTClient subscriber, MQTTClient publisher) {
    publish(publisher, topic("retained", -1), "kept", 1, 1);
    subscribe(subscriber, topic("retained", -1), 1);
    expect_one(subscriber, "kept 1", 1);
    publish(publisher, topic("retained", -1), "", 1, 1);
    expect_one(subscriber, " 1", 0);
}

static void shared(MQTTClient publisher) {
    char filter[TEXT_MAX];
    snprintf(filter, sizeof filter, "$share/group/%s", topic("shared", -1));
    MQTTClient members[] = {connect_to(first, "member-1", 0, NULL, NULL), connect_to(third, "member-2", 0, NULL, NULL)};
    for (int n = 0; n < 2; n++)
        subscribe(members[n], filter, 1);
    for (int number = 0; number < SHARED; number++) {
        char payload[TEXT_MAX];
        snprintf(payload, sizeof payload, "%d", number);
        publish(publisher, topic("shared", -1), payload, 1, 0);
    }
    /* What follows comes after all of the above to each of them. */
    for (int n = 0; n < 2; n++)
        subscribe(members[n], topic("shared/end", -1), 1);
    publish(publisher, topic("shared/end", -1), "end", 1, 0);
    int times[SHARED] = {0};
    for (int n = 0; n < 2; n++) {
        int count = 0;
        char text[TEXT_MAX];
        while (receive(members[n], text), strcmp(text, "end 1")) {
            int number = atoi(text);
            CHECK(number >= 0 && number < SHARED && !times[number], "%s", text);
            times[number] = 1;
            count++;
        }
        CHECK(count > 0, "a member of the group got nothing");
        close_client(members[n]);
    }
    for (int number = 0; number < SHARED; number++)
        CHECK(times[number], "%d came to nobody", number);
}

/* A process that dies has no chance to send DISCONNECT. It was forked before any client was made. */
static pid_t mortal(int start, int started) {
    pid_t child = fork();
    CHECK(child >= 0, "fork");
    if (child == 0) {
        char go;
        if (read(start, &go, 1) == 1) {
            connect_to(third, "mortal", 0, topic("will", -1), NULL);
            if (write(started, &go, 1) == 1)
                pause();
        }
        _exit(0);
    }
    return child;
}

static MQTTClient resumed_elsewhere(MQTTClient subscriber, MQTTClient publisher) {
    char line[TEXT_MAX], expected[6][TEXT_MAX];
    subscribe(subscriber, topic("queued", -1), 2);
    printf("ready\n");
    fflush(stdout);
    CHECK(fgets(line, sizeof line, stdin) && !strcmp(line, "killed\n"), "no word");
    MQTTClient_destroy(&subscriber);
    for (int n = 0; n < 6; n++) {
        char payload[TEXT_MAX];
        int qos = 1 + n % 2;
        snprintf(payload, sizeof payload, "number-%d", n);
        publish(publisher, topic("queued", -1), payload, qos, 0);
        snprintf(expected[n], TEXT_MAX, "number-%d %d", n, qos);
    }
    int present;
    subscriber = connect_to(third, "subscriber", 1, NULL, &present);
    /* 3.1 has no such flag, and of 5.0 the client does not tell it. */
    CHECK(present || version != MQTTVERSION_3_1_1, "the session is lost");
    expect(subscriber, 6, expected);
    publish(publisher, topic("queued", -1), "live", 2, 0);
    expect_one(subscriber, "live 2", 0);
    return subscriber;
}

int main(int count, char **arguments) {
    CHECK(count == 6, "five arguments");
    version = !strcmp(arguments[1], "v5")     ? MQTTVERSION_5
              : !strcmp(arguments[1], "v311") ? MQTTVERSION_3_1_1
                                              : MQTTVERSION_3_1;
    first = arguments[2], second = arguments[3], third = arguments[4], prefix = arguments[5];
    int start[2], started[2], present;
    char go = 'g';
    CHECK(!pipe(start) && !pipe(started), "pipe");
    pid_t child = mortal(start[0], started[1]);

    MQTTClient subscriber = connect_to(first, "subscriber", 1, NULL, &present);
    CHECK(!present, "a session from nowhere");
    MQTTClient publisher = connect_to(second, "publisher", 0, NULL, NULL);
    qos_matrix(subscriber, publisher);
    retained(subscriber, publisher);
    shared(publisher);

    subscribe(subscriber, topic("will", -1), 1);
    CHECK(write(start[1], &go, 1) == 1 && read(started[0], &go, 1) == 1, "the child");
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    expect_one(subscriber, "the will 1", 0);

    subscriber = resumed_elsewhere(subscriber, publisher);
    close_client(subscriber);
    close_client(publisher);
    printf("done\n");
    return 0;
}
