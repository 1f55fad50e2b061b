#!/usr/bin/env bash
# Tests the container without a container engine: builds its root file system with debootstrap by the
# steps of deploy/Containerfile, and runs the server in it by chroot as its own user, with a read-only
# root, one volume and a temporary /tmp. Adapts, predicts, probes, and stops the server while
# adaptations run. Prints sizes and start times. Needs root, debootstrap and iproute2.
#
#   deploy/try-rootfs.sh
#
# ROOTFS               a folder that deploy/build-rootfs.sh wrote   [a new one]
# CACHE, RUNTIME, SUITE as in deploy/build-rootfs.sh
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "try-rootfs.sh: $*" >&2
    exit 1
}

[[ $# == 0 ]] || { echo "usage: deploy/try-rootfs.sh" >&2; exit 2; }
[[ $(id -u) == 0 ]] || fail "chroot needs root: run as root"

work=$(mktemp -d)
running=
# Mounts live in other namespaces; here are only plain files.
clean() {
    [[ -z $running ]] || kill "$running" 2>/dev/null || true
    rm -rf --one-file-system "$work"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# Run in the background, so that a signal does not wait for the command to end.
watch() {
    "$@" &
    running=$!
    local code=0
    wait "$running" || code=$?
    running=
    return "$code"
}

image=${ROOTFS:-$work/image}
if [[ -z ${ROOTFS:-} ]]; then
    SECONDS=0
    watch deploy/build-rootfs.sh "$image" >/dev/null
    echo "built in $SECONDS s"
fi
[[ -x $image/final/opt/kshot/bin/kshot ]] || fail "ROOTFS: no kshot in $image/final"

if unshare --mount --net --ipc --pid --fork true 2>/dev/null; then
    command -v ip >/dev/null || fail "ip is missing: apt-get install iproute2"
    KSHOT_CONTAINED=yes watch unshare --mount --net --ipc --pid --fork --kill-child --mount-proc \
        deploy/try-server.sh "$image" "$work"
else
    echo "try-rootfs.sh: namespaces are not permitted: the root stays writable" >&2
    KSHOT_CONTAINED=no watch deploy/try-server.sh "$image" "$work"
fi
