#!/usr/bin/env bash
# Runs the server in a root file system and uses it. deploy/try-rootfs.sh calls this, in namespaces of
# its own if they are permitted (KSHOT_CONTAINED=yes): only loopback, and no mount stays.
#
#   try-server.sh IMAGE WORK     IMAGE/final is the root; WORK is a folder for logs and the volume
set -euo pipefail
cd "$(dirname "$0")/.."

image=$1
work=$2
root=$image/final
python=/opt/kshot/bin/python
start_seconds=600
server=

fail() {
    echo "try-server.sh: $*" >&2
    [[ ! -s $work/server.log ]] || tail -n 5 "$work/server.log" >&2
    exit 1
}

stop_server() {
    if [[ -n $server ]]; then
        kill -KILL "$server" 2>/dev/null || true
    fi
}
trap stop_server EXIT
trap 'exit 143' INT TERM

# An instruction's JSON list, one word per line; user and environment also come from the Containerfile.
words_of() {
    chroot "$root" /usr/bin/python3 -c 'import json, sys; print(*json.loads(sys.argv[1]), sep="\n")' \
        "$(sed -n "s/^$1 [^[]*\[/[/p" deploy/Containerfile)"
}
mapfile -t command < <(words_of ENTRYPOINT; words_of CMD)
mapfile -t probe < <(words_of HEALTHCHECK)
mapfile -t environment < <(sed -n 's/^ENV //p' deploy/Containerfile)
user=$(sed -n 's/^USER //p' deploy/Containerfile)
volume=$(sed -n 's/^VOLUME //p' deploy/Containerfile)
client_folder=$volume/exercise

# As `--read-only --tmpfs /tmp:exec,size=512m -v …:$volume` would.
mount_as_container() {
    local device
    ip link set lo up
    mount --bind "$root" "$root"
    mount -t proc proc "$root/proc"
    mount --rbind -o ro /sys "$root/sys"
    mount -t tmpfs -o mode=0755,size=64k tmpfs "$root/dev"
    for device in null zero full random urandom; do
        touch "$root/dev/$device"
        mount --bind "/dev/$device" "$root/dev/$device"
    done
    mkdir "$root/dev/shm"
    mount -t tmpfs -o nosuid,nodev,noexec,size=64m tmpfs "$root/dev/shm"
    mount -t tmpfs -o nosuid,nodev,exec,size=512m tmpfs "$root/tmp"
    install -d -m 0700 -o "${user%:*}" -g "${user#*:}" "$work/volume"
    mount --bind "$work/volume" "$root$volume"
    mount -o remount,ro,bind "$root"
    ! touch "$root/opt/kshot/written" 2>/dev/null || fail "the root is writable"
}

# As `--user`, `--cap-drop=ALL` and `--security-opt=no-new-privileges` would; `alone` is the command
# that makes a process the first of its own namespace, as in a container. `settings` are a server's
# and its probe's, and also those of the calls to it.
alone=()
settings=(KSHOT_INSECURE=1)
inside() {
    exec "${alone[@]}" chroot "$root" /usr/bin/setpriv --reuid="${user%:*}" --regid="${user#*:}" \
        --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
        /usr/bin/env -i "${environment[@]}" "KSHOT_LISTEN=$listen" "${settings[@]}" "$@"
}

exercise() {
    (inside "$python" - "$@" <deploy/exercise.py)
}

expect_health() { # CODE WHEN
    local code=0
    (inside "${probe[@]}") 2>>"$work/probe.log" || code=$?
    [[ $code == "$1" ]] || fail "health probe $2: expected $1, got $code"
    echo "health probe $2: $code"
}

# Processor seconds of all processes here except this one, ended children included.
processor_seconds() {
    [[ $KSHOT_CONTAINED == yes ]] || { echo "unknown"; return; }
    { cat /proc/[0-9]*/stat 2>/dev/null || true; } | grep -v "^$$ " | sed 's/.*) //' |
        awk -v tick="$(getconf CLK_TCK)" '{ sum += $12 + $13 + $14 + $15 } END { printf "%.0f", sum / tick }'
}

# Sets `server`, the process that gets signals; `waited`, the one to wait for; `address`, and `page`,
# that of HTTP; `seconds` of
# wall-clock time, and `busy` seconds of processor time.
start_server() {
    local began=$EPOCHREALTIME ready
    listen=$1
    rm -f "$work/ready"
    mkfifo "$work/ready"
    echo "a start at $(date -Is)" >>"$work/server.log"
    (
        [[ $KSHOT_CONTAINED == no ]] ||
            alone=(unshare --pid --fork --kill-child "--mount-proc=$root/proc")
        inside "${command[@]}"
    ) >"$work/ready" 2>>"$work/server.log" &
    waited=$!
    server=$waited
    exec 3<"$work/ready"
    expect_health 1 "before it is ready"
    IFS= read -r -t "$start_seconds" ready <&3 || fail "the server did not become ready"
    seconds=$(awk -v a="$began" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }')
    busy=$(processor_seconds)
    [[ $ready == *'"event": "ready"'* ]] || fail "the server said: $ready"
    address=$(sed 's/.*"grpc": "\([^"]*\)".*/\1/; s/^0\.0\.0\.0:/127.0.0.1:/' <<<"$ready")
    listen=$address
    page=$(sed -n 's/.*"http": "\([^"]*\)".*/\1/p' <<<"$ready")
    [[ $KSHOT_CONTAINED == no ]] || server=$(pgrep -P "$waited")
    expect_health 0 "when it is ready"
    if grep -E '"(not_compiled|compile_failed|compiled_step_(not_loaded|refused))"' "$work/server.log" >&2; then
        fail "the engine's steps are not compiled"
    fi
}

end_server() {
    local code=0
    wait "$waited" || code=$?
    server=
    exec 3<&-
    [[ $code == 0 ]] || fail "the server's exit code: expected 0, got $code"
    echo "exit code after SIGTERM: $code"
    expect_health 1 "after its end"
}

size() { # of the arguments that exist, in MiB
    local there=() path
    for path in "$@"; do
        [[ ! -e $path ]] || there+=("$path")
    done
    [[ ${#there[@]} == 0 ]] || du -cm --one-file-system "${there[@]}" | tail -n 1 | cut -f1
}

print_sizes() {
    local packages=("$root"/opt/kshot/lib/python3*/site-packages)
    local base system torch runtime all
    base=$(cat "$image/base-mib")
    system=$(size "$image/system")
    torch=$(size "${packages[0]}"/{torch,torchgen,functorch,nvidia,triton}*)
    runtime=$(size "${packages[0]}"/onnxruntime*)
    all=$(size "$root")
    printf '%6d MiB  %s\n' "$base" "Debian's base" $((system - base)) "Python and the C++ compiler" \
        "$torch" "torch" "$runtime" "ONNX Runtime" $((all - system - torch - runtime)) "other libraries and kshot" \
        "$all" "the whole root"
}

print_sizes
if [[ $KSHOT_CONTAINED == yes ]]; then
    mount_as_container
    echo "root is read-only; the volume is $volume"
    first=0.0.0.0:50051
else
    first=127.0.0.1:0
fi

start_server "$first"
echo "cold start, empty cache: $seconds s, $busy s of processor time"
exercise draw "$client_folder"
exercise use "$address" "$client_folder" | tee "$work/used"
adapted=$(tail -n 1 "$work/used")

exec 4< <(exercise drain "$address" "$client_folder" || echo "failed")
IFS=' ' read -r -t 120 word count <&4 || fail "the calls could not be sent"
[[ $word == sent && $count -ge 1 ]] || fail "no call ran at the stop: $word $count"
kill -TERM "$server"
echo "SIGTERM during $count adaptations"
IFS= read -r -t 120 ending <&4 || fail "the calls did not end"
[[ $ending == *"took all their steps"* ]] || fail "the calls ended: $ending"
echo "$ending"
end_server

if [[ $KSHOT_CONTAINED == yes ]]; then
    echo "/tmp held $(size "$root/tmp") MiB"
    find "$root/tmp" -mindepth 1 -delete # a container that restarts finds it empty
fi
start_server "$first"
echo "start with a warm cache: $seconds s, $busy s of processor time"
exercise again "$address" "$client_folder" "$adapted"
kill -TERM "$server"
end_server

# With keys and TLS, whatever the address: the files lie in the volume, and belong to the server.
settings=("KSHOT_HTTP=127.0.0.1:0" "KSHOT_ACCESS=$volume/access.json" "KSHOT_TLS_CERT=$volume/tls.crt" "KSHOT_TLS_KEY=$volume/tls.key")
(inside sh -euc "umask 077
    openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=kshot \
        -addext 'subjectAltName=DNS:localhost,IP:127.0.0.1' -keyout $volume/tls.key -out $volume/tls.crt
    kshot keys create --tenant exercise >$volume/api-key") 2>>"$work/server.log" ||
    fail "no certificate and key could be made"
start_server "$first"
echo "start with keys and TLS: $seconds s, $busy s of processor time"
settings+=("KSHOT_CA=$volume/tls.crt")
code=0
exercise again "$address" "$client_folder" "$adapted" >/dev/null 2>"$work/refused" || code=$?
if [[ $code == 0 ]] || ! grep -q -i "key" "$work/refused"; then
    fail "a call without a key: exit code $code, $(cat "$work/refused")"
fi
echo "a call without a key is refused: $(head -n 1 "$work/refused")"
settings+=("KSHOT_API_KEY_FILE=$volume/api-key")
exercise use "$address" "$client_folder"
exercise page "$page"
kill -TERM "$server"
end_server
echo "the volume: $(size "$root$volume/store") MiB of store, $(size "$root$volume/cache") MiB of cache"
