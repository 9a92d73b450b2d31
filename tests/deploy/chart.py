"""chart.py RENDERED.yaml: what must hold of a rendered chart beyond its schema. Prints each breach."""

import re
import sys

import yaml

MQTT_KINDS = {"mqtt", "mqtts", "ws", "wss"}
# Liveness must not depend on the quorum.
PROBES = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}


def seconds(text):
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]


class Chart:
    def __init__(self, documents):
        self.documents = [document for document in documents if document]
        self.breaches = []

    def must(self, condition, words):
        if not condition:
            self.breaches.append(words)

    def of(self, kind, name=None):
        found = [d for d in self.documents if d["kind"] == kind]
        return [d for d in found if name is None or d["metadata"]["name"] == name]

    def one(self, kind):
        found = self.of(kind)
        self.must(len(found) == 1, f"{len(found)} of kind {kind}")
        return found[0]

    def check(self):
        sts = self.one("StatefulSet")
        spec, template = sts["spec"], sts["spec"]["template"]
        pod, labels = template["spec"], template["metadata"]["labels"]
        container = pod["containers"][0]
        ports = {port["name"]: port["containerPort"] for port in container["ports"]}
        toml = self.one("ConfigMap")["data"]["holdfast.toml"]
        self.selectors(spec, labels)
        self.services(spec, ports, toml)
        self.peers(sts, toml)
        self.probes(container, ports)
        self.stopping(pod, container, toml)
        self.security(pod, container)
        self.files(sts, pod, container, toml)
        self.budget(spec)
        self.monitoring(labels)

    def matches(self, selector, labels):
        return bool(selector) and all(labels.get(k) == v for k, v in selector.items())

    def selectors(self, spec, labels):
        self.must(self.matches(spec["selector"]["matchLabels"], labels), "the StatefulSet's selector misses its pods")
        for kind in ("Service", "PodDisruptionBudget", "NetworkPolicy"):
            for one in self.of(kind):
                selector = one["spec"].get("selector") or one["spec"].get("podSelector")
                selector = selector.get("matchLabels", selector)
                self.must(self.matches(selector, labels), f"{kind} {one['metadata']['name']} selects other pods")
        namespaces = {d["metadata"]["namespace"] for d in self.documents}
        self.must(len(namespaces) == 1, f"several namespaces: {namespaces}")

    def services(self, spec, ports, toml):
        headless = self.of("Service", spec["serviceName"])
        self.must(len(headless) == 1, "serviceName names no Service")
        self.must(headless[0]["spec"].get("clusterIP") == "None", "the headless Service has an address")
        self.must(headless[0]["spec"].get("publishNotReadyAddresses") is True, "nodes need each other's names before they are ready")
        clients = [s for s in self.of("Service") if s is not headless[0]]
        self.must(len(clients) == 1, "there is one Service for clients")
        for service in self.of("Service"):
            for port in service["spec"]["ports"]:
                target = port["targetPort"]
                self.must(ports.get(target) == port["port"], f"port {port} has no such container port")
        listening = {int(p) for p in re.findall(r'bind = "[^"]*:(\d+)"', toml)}
        listening |= {int(p) for p in re.findall(r'listen = "[^"]*:(\d+)"', toml)}
        self.must(listening == set(ports.values()), f"listens on {listening}, declares {ports}")
        published = {p["port"] for p in clients[0]["spec"]["ports"]}
        self.must(not published & {ports["admin"], ports["cluster"]}, "clients get to the admin or cluster port")

    def peers(self, sts, toml):
        replicas, name = sts["spec"]["replicas"], sts["metadata"]["name"]
        peers = re.findall(r'"(\d+)@([^":]+):(\d+)"', toml)
        self.must(len(peers) == replicas, f"{len(peers)} peers, {replicas} replicas")
        domain = f"{sts['spec']['serviceName']}.{sts['metadata']['namespace']}.svc."
        for place, (number, host, port) in enumerate(peers):
            self.must(int(number) == place + 1, f"peer {host} has the id {number}")
            self.must(host.startswith(f"{name}-{place}.{domain}"), f"{host} is no pod")
            self.must(port == "7400", f"peer {host} has port {port}")
        self.must('id = "from-hostname"' in toml, "the id is not the pod's number")
        self.must(sts["spec"]["podManagementPolicy"] == "Parallel", "nodes wait for each other")

    def probes(self, container, ports):
        for probe, path in PROBES.items():
            get = container[probe]["httpGet"]
            self.must((get["path"], get["port"]) == (path, "admin"), f"{probe} asks {get}")
        self.must("admin" in ports, "no admin port")
        startup, liveness = container["startupProbe"], container["livenessProbe"]
        self.must(startup["periodSeconds"] * startup["failureThreshold"] >= 300, "a long replay is killed")
        self.must(liveness["periodSeconds"] * liveness["failureThreshold"] >= 60, "liveness is hasty")

    def stopping(self, pod, container, toml):
        grace = pod["terminationGracePeriodSeconds"]
        drain = seconds(re.search(r'drain_timeout = "([^"]+)"', toml)[1])
        unready = seconds(re.search(r'\ngrace = "([^"]+)"', toml)[1])
        self.must(grace >= drain + unready + 10, f"grace of {grace} s, drain of {drain} s + {unready} s")
        if "lifecycle" in container:
            command = container["lifecycle"]["preStop"]["exec"]["command"]
            self.must(command[:2] == ["holdfast", "drain"], f"preStop runs {command}")
            timeout = seconds(command[command.index("--timeout") + 1])
            self.must(grace > timeout + unready, f"grace of {grace} s, preStop of {timeout} s")

    def security(self, pod, container):
        of_pod, of_container = pod["securityContext"], container["securityContext"]
        self.must(of_pod.get("runAsNonRoot") is True and of_pod.get("runAsUser") == 10001, "runs as root")
        self.must(of_pod.get("fsGroup") == 10001, "the volume belongs to somebody else")
        self.must(of_container.get("readOnlyRootFilesystem") is True, "the root file system can be written")
        self.must(of_container.get("allowPrivilegeEscalation") is False, "may escalate")
        self.must(of_container["capabilities"] == {"drop": ["ALL"]}, "has capabilities")
        self.must(pod.get("enableServiceLinks") is False, "service links become configuration")
        self.must(pod.get("automountServiceAccountToken") is False, "has a token of the Kubernetes API")
        for secret in self.of("Secret"):
            values = list(secret["data"].values())
            self.must(len(set(values)) == len(values), "secrets repeat")
            self.must(min(len(v) for v in values) >= 40, "a secret is short")

    def files(self, sts, pod, container, toml):
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        claims = [claim["metadata"]["name"] for claim in sts["spec"].get("volumeClaimTemplates", [])]
        for mount in mounts.values():
            self.must(mount["name"] in volumes or mount["name"] in claims, f"{mount} has no volume")
        self.must("/var/lib/holdfast" in mounts and 'data_dir = "/var/lib/holdfast"' in toml, "data is not on the volume")
        for path in re.findall(r'"(/etc/holdfast/[^"]+)"', toml):
            self.must(any(path.startswith(m + "/") for m in mounts), f"{path} is not mounted")
        secret = volumes["secret"]["secret"]["secretName"]
        made = self.of("Secret")
        self.must(not made or made[0]["metadata"]["name"] == secret, "another Secret is mounted")
        account = pod["serviceAccountName"]
        self.must(account == "default" or self.of("ServiceAccount", account), f"no ServiceAccount {account}")
        self.must(mounts["/etc/holdfast/config"]["name"] == "config", "no configuration")
        self.must("checksum/config" in sts["spec"]["template"]["metadata"]["annotations"], "a new configuration restarts nothing")

    def budget(self, spec):
        for budget in self.of("PodDisruptionBudget"):
            allowed, replicas = budget["spec"]["maxUnavailable"], spec["replicas"]
            self.must(allowed <= (replicas - 1) // 2, f"a budget of {allowed} of {replicas} loses the majority")

    def monitoring(self, labels):
        for monitor in self.of("ServiceMonitor"):
            wanted = monitor["spec"]["selector"]["matchLabels"]
            found = [s for s in self.of("Service") if self.matches(wanted, s["metadata"]["labels"])]
            self.must(len(found) == 1, f"the ServiceMonitor finds {len(found)} Services")
            names = [p["name"] for s in found for p in s["spec"]["ports"]]
            self.must(monitor["spec"]["endpoints"][0]["port"] in names, "the ServiceMonitor asks a port that is not there")
            jobs = [r["replacement"] for r in monitor["spec"]["endpoints"][0]["relabelings"] if r["targetLabel"] == "job"]
            self.must(jobs == ["holdfast"], f"rules and dashboard look for the job holdfast, not {jobs}")
        for rule in self.of("PrometheusRule"):
            self.must(rule["spec"]["groups"][0]["rules"], "no rules")


chart = Chart(yaml.safe_load_all(open(sys.argv[1])))
chart.check()
for breach in chart.breaches:
    print(breach)
sys.exit(bool(chart.breaches))
