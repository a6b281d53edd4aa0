#!/bin/sh
# Makes the lab's Python environment and prints the path of its interpreter.
#
# Usage: bootstrap.sh [--rust]     (--rust also installs what building eyrie needs)
#
# The environment lives in the lab's cache and is made once per version of this
# folder's requirements; an interrupted run leaves nothing that a later one trusts.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
cache=${EYRIE_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/eyrie-lab}
milvus=2.3.5
pymilvus=2.3.7

say() { echo "lab: $*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

missing=""
want() { missing="$missing $1"; }

command -v flock >/dev/null && command -v setpriv >/dev/null || want util-linux
command -v openssl >/dev/null || want openssl
command -v python3 >/dev/null || want python3
python3 -c 'import venv, ensurepip' 2>/dev/null || want python3-venv
if [ "${1:-}" = --rust ]; then
    command -v cc >/dev/null || want build-essential
    command -v cmake >/dev/null || want cmake
    command -v pkg-config >/dev/null || want pkg-config
    command -v protoc >/dev/null || want protobuf-compiler
    # protoc without the well-known protos is what Debian installs without its recommendations.
    echo 'syntax = "proto3"; import "google/protobuf/descriptor.proto";' |
        protoc --proto_path=/dev --descriptor_set_out=/dev/null /dev/stdin 2>/dev/null ||
        want libprotobuf-dev
fi
if [ -n "$missing" ]; then
    say "installing$missing"
    {
        as_root apt-get update -q
        # shellcheck disable=SC2086
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends $missing
    } >&2
fi

mkdir -p "$cache"
version=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
digest=$(cat "$here/requirements.txt" "$here/bootstrap.sh" | sha256sum | cut -c1-12)
venv=$cache/venv-$version-$digest
python=$venv/bin/python

if [ ! -e "$venv/complete" ]; then
    exec 9>"$venv.lock"
    flock 9
    if [ ! -e "$venv/complete" ]; then
        say "making the Python environment $venv"
        rm -rf "$venv"
        {
            python3 -m venv "$venv"
            "$python" -m pip install -q -r "$here/requirements.txt"
            "$python" -m pip install -q --no-deps "milvus==$milvus" "pymilvus==$pymilvus"
        } >&2
        touch "$venv/complete"
    fi
    exec 9>&-
fi
echo "$python"
