#!/usr/bin/env bash
# Builds the container's root file system without a container engine: it follows
# deploy/Containerfile, with debootstrap's Debian as the base and chroot for the steps.
#
#   deploy/build-rootfs.sh FOLDER     writes FOLDER/final; needs root and a Debian-like system
#
# It uses this machine's apt mirror and pip configuration.
#
# RUNTIME    cpu or gpu                                     [cpu]
# SUITE      Debian's release                               [bookworm]
# CACHE      folder that keeps downloads for the next run   [none]
set -euo pipefail
cd "$(dirname "$0")/.."

fail() {
    echo "build-rootfs.sh: $*" >&2
    exit 1
}

[[ $# == 1 ]] || { echo "usage: deploy/build-rootfs.sh FOLDER" >&2; exit 2; }
[[ $(id -u) == 0 ]] || fail "chroot needs root: run as root, or build deploy/Containerfile"
command -v debootstrap >/dev/null || fail "debootstrap is missing: apt-get install debootstrap"

# A mount namespace of its own: all mounts disappear when this script ends, however it ends.
if [[ -z ${KSHOT_CONTAINED:-} ]]; then
    contained=no
    unshare --mount true 2>/dev/null && contained=yes
    export KSHOT_CONTAINED=$contained
    if [[ $contained == yes ]]; then
        exec unshare --mount "$PWD/deploy/build-rootfs.sh" "$(realpath -m "$1")"
    fi
    echo "build-rootfs.sh: mounting is not permitted: pip cannot use local package folders" >&2
fi

folder=$(realpath -m "$1")
[[ $folder =~ ^[A-Za-z0-9/._+-]+$ ]] || fail "FOLDER: expected letters, digits and /._+-, got $folder"
[[ -z $(ls -A "$folder" 2>/dev/null) ]] || fail "FOLDER: $folder is not empty"
suite=${SUITE:-bookworm}
cache=${CACHE:+$(realpath -m "$CACHE")}
declare -A arguments=([RUNTIME]="${RUNTIME:-cpu}")
root= # of the current stage
mkdir -p "$folder"

# Debian's base, with this machine's mirrors and apt's network settings.
make_base() {
    local mirror=() sources cached=()
    # shellcheck disable=SC2016 # these are variables of apt
    sources=$(apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT)' 'Created-By: Packages' |
        grep -E " $suite(-updates|-security)? main$" | sort -u || true)
    mapfile -t mirror < <(sed -n "s/ $suite main$//p" <<<"$sources" | head -n 1)
    if [[ -n $cache ]]; then
        mkdir -p "$cache/debootstrap"
        cached=(--cache-dir="$cache/debootstrap")
    fi
    debootstrap --variant=minbase "${cached[@]}" "$suite" "$1" "${mirror[@]}" >"$folder/debootstrap.log" ||
        fail "debootstrap failed: $(tail -n 1 "$folder/debootstrap.log")"
    if [[ -n $sources ]]; then
        printf 'deb %s\n' "${sources//$'\n'/$'\n'deb }" >"$1/etc/apt/sources.list"
    fi
    apt-config dump | grep '^Acquire::' >"$1/etc/apt/apt.conf.d/90build" || true
    # As in container images: keep no archives, start no services.
    echo 'APT::Keep-Downloaded-Packages "false";' >"$1/etc/apt/apt.conf.d/90container"
    printf '#!/bin/sh\nexit 101\n' >"$1/usr/sbin/policy-rc.d"
    chmod +x "$1/usr/sbin/policy-rc.d"
    rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*
    du -sm --one-file-system "$1" | cut -f1 >"$folder/base-mib"
}

# Start a stage as a copy of another stage's root, or of Debian's base.
begin_stage() { # BASE as NAME
    root=$folder/${3:-final}
    if [[ -d $folder/$1 ]]; then
        cp -a --reflink=auto "$folder/$1" "$root"
    else
        make_base "$root"
    fi
    echo "stage ${3:-final}" >&2
}

copy() { # [--from=STAGE] SOURCE... DESTINATION
    local from=$PWD destination=$root${*: -1}
    if [[ $1 == --from=* ]]; then
        from=$folder/${1#--from=}
        shift
    fi
    mkdir -p "$destination"
    local source
    for source in "${@:1:$#-1}"; do
        if [[ -d $from/$source ]]; then
            tar -C "$from/$source" --exclude=__pycache__ -cf - . | tar -C "$destination" -xf -
        else
            cp "$from/$source" "$destination"
        fi
    done
}

# Mount a file or folder of this machine into the chroot, below /host.
show() {
    local place=$root/host$1
    if [[ -d $1 ]]; then
        mkdir -p "$place"
    else
        mkdir -p "$(dirname "$place")"
        touch "$place"
    fi
    mount --bind "$1" "$place"
}

# Give the chroot this machine's pip configuration as environment variables, and mount the local
# folders that it names. Sets `variables`.
bring_pip() {
    local key name value word words
    for key in index-url extra-index-url find-links trusted-host cert; do
        name=PIP_${key^^}
        name=${name//-/_}
        value=${!name:-$(pip config get "global.$key" 2>/dev/null || true)}
        words=()
        for word in $value; do
            local path=${word#file://}
            if [[ $path == /* && -e $path ]]; then
                [[ $KSHOT_CONTAINED == yes ]] || continue
                # an index links to files beside it
                show "${path%/simple}"
                word=${word%"$path"}/host$path
            fi
            words+=("$word")
        done
        [[ ${#words[@]} == 0 ]] || variables+=("$name=${words[*]}")
    done
    if [[ -n $cache && $KSHOT_CONTAINED == yes ]]; then
        mkdir -p "$cache/pip"
        show "$cache/pip"
        variables+=("PIP_CACHE_DIR=/host$cache/pip")
    fi
}

run() {
    local variables=() name
    for name in "${!arguments[@]}"; do
        variables+=("$name=${arguments[$name]}")
    done
    bring_pip
    [[ $KSHOT_CONTAINED == no ]] || mount -t proc proc "$root/proc"
    echo "run $*" >&2
    chroot "$root" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
        "${variables[@]}" /bin/sh -c "$*" >>"$folder/build.log" 2>&1 ||
        fail "a step failed: $*: $(tail -n 3 "$folder/build.log")"
    # Nothing may be mounted when a stage is copied or removed.
    awk -v root="$root/" 'index($2, root) == 1 { print $2 }' /proc/self/mounts | sort -r |
        xargs --no-run-if-empty umount
    # Remove only empty mount points, in case something is still mounted.
    [[ ! -d $root/host ]] || find "$root/host" -xdev -depth -empty -delete
}

: >"$folder/build.log"
while read -r instruction rest; do
    case $instruction in
        '' | '#'*) ;;
        ARG) ;; # the values are set above
        FROM)
            read -r -a words <<<"$rest"
            begin_stage "${words[@]}"
            ;;
        COPY)
            read -r -a words <<<"$rest"
            copy "${words[@]}"
            ;;
        RUN) run "$rest" </dev/null ;;
        ENV | VOLUME | WORKDIR | USER | EXPOSE | STOPSIGNAL | HEALTHCHECK | ENTRYPOINT | CMD) ;;
        *) fail "deploy/Containerfile: unknown instruction $instruction" ;;
    esac
done <deploy/Containerfile

# Only the build needed these.
(cd "$folder/final/etc" && rm -f apt/apt.conf.d/90build resolv.conf hostname)
rm -rf --one-file-system "$folder/build"
echo "$folder/final"
