"""Checks of what is installed: Python, libraries, the two runtimes, compiler and openssl."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kshot.command.version import version
from kshot.local import pip_install
from kshot.operate.finding import Finding

CLIENT = ("click", "grpcio", "numpy", "pillow", "protobuf", "rich")
OTHERS = ("onnx", "safetensors", "torch", "prometheus-client", "starlette", "uvicorn")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_CPU, _CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
_SECONDS = 120.0
# In processes of their own: these libraries take seconds, and a broken one may end its process.
_ASK_TORCH = (
    "import json, torch; gpu = torch.cuda.is_available(); print(json.dumps({'cuda': "
    "torch.version.cuda, 'gpu': torch.cuda.get_device_name() if gpu else None}))"
)
_ASK_RUNTIME = (
    "import json, onnxruntime; print(json.dumps({'providers': "
    "onnxruntime.get_available_providers()}))"
)


def check_installation() -> Iterator[Finding]:
    """Yield what is found of Python and the libraries."""
    yield Finding("kshot", "ok", version())
    yield Finding("Python", "ok", f"{platform.python_version()} at {sys.executable}")
    versions = {name: installed(name) for name in (*CLIENT, *OTHERS, *RUNTIMES)}
    there = ", ".join(f"{name} {found}" for name, found in versions.items() if found)
    missing = [name for name in CLIENT if versions[name] is None]
    if missing:
        remedy = f"pip install {' '.join(missing)}"
        yield Finding("libraries", "problem", f"missing: {', '.join(missing)}", remedy)
    else:
        yield Finding("libraries", "ok", there)
    gpu = gpu_there()
    yield Finding("GPU", "ok", "an NVIDIA GPU" if gpu else "none; adaptations run on the CPU")
    yield check_torch(versions["torch"], gpu=gpu)
    yield check_runtime(tuple(name for name in RUNTIMES if versions[name]), gpu=gpu)
    if versions["torch"] is not None:
        yield check_compiler()


def installed(name: str) -> str | None:
    """Return the version of a distribution, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def gpu_there() -> bool:
    """Tell whether this process may see an NVIDIA GPU."""
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1")
    return not hidden and any(Path("/dev").glob("nvidia[0-9]*"))


def check_torch(torch: str | None, *, gpu: bool) -> Finding:
    """Tell whether the engine can adapt, and whether on the GPU."""
    if torch is None:
        remedy = f"{pip_install('server,engine,cpu')}, unless this machine is a client only"
        return Finding("torch", "ok", "not installed: this machine cannot serve or train", remedy)
    said = _ask(_ASK_TORCH)
    if isinstance(said, str):
        remedy = f"pip uninstall torch, then {pip_install('server,engine,cpu')}"
        return Finding("torch", "problem", f"{torch} cannot be imported: {said}", remedy)
    build = f"CUDA {said['cuda']}" if said["cuda"] else "CPU"
    found = f"{torch}, built for {build}" + (f", sees {said['gpu']}" if said["gpu"] else "")
    if gpu and not said["gpu"]:
        remedy = "install a torch that is built for the CUDA version of the driver (nvidia-smi)"
        return Finding("torch", "warning", f"{found}, does not see the GPU", remedy)
    return Finding("torch", "ok", found)


def check_runtime(names: tuple[str, ...], *, gpu: bool) -> Finding:
    """Tell whether ONNX Runtime can predict: one of its two packages must be there, not both."""
    check = "ONNX Runtime"
    if len(names) > 1:
        one = "gpu" if gpu else "cpu"
        remedy = f"pip uninstall {' '.join(RUNTIMES)}, then {pip_install(one)}"
        found = f"{' and '.join(names)} are installed into the same folder and break each other"
        return Finding(check, "problem", found, remedy)
    if not names:
        if find_spec("onnx") is None:
            return Finding(check, "ok", "not installed: this machine cannot serve")
        remedy = pip_install("gpu" if gpu else "cpu")
        return Finding(check, "warning", "not installed: `kshot serve` needs it", remedy)
    said = _ask(_ASK_RUNTIME)
    if isinstance(said, str):
        remedy = f"pip install --force-reinstall {names[0]}"
        return Finding(check, "problem", f"{names[0]} cannot be imported: {said}", remedy)
    providers = said["providers"]
    found = f"{names[0]} {installed(names[0])}, {', '.join(providers)}"
    if gpu and _CUDA not in providers:
        remedy = f"pip uninstall {names[0]}, then {pip_install('gpu')}"
        return Finding(check, "warning", f"{found}: predictions do not use the GPU", remedy)
    return Finding(check, "ok", found)


def check_compiler() -> Finding:
    """Tell whether inner steps can be compiled."""
    candidates = (os.environ.get("CXX"), "g++", "clang++")
    compiler = next((name for name in candidates if name and shutil.which(name)), None)
    openssl = shutil.which("openssl")
    missing = [*([] if compiler else ["g++ or clang++"]), *([] if openssl else ["openssl"])]
    if missing:
        remedy = "install it with the system's package manager, such as apt install g++ openssl"
        found = f"no {' and no '.join(missing)}: inner steps run uncompiled, which takes longer"
        return Finding("compiled steps", "warning", found, remedy)
    return Finding("compiled steps", "ok", f"{compiler} and openssl are there")


def _ask(script: str) -> dict[str, Any] | str:
    """Run a line of Python that prints JSON; return that, or why it failed."""
    try:
        done = subprocess.run(  # noqa: S603 -- this interpreter, with our own line
            [sys.executable, "-P", "-c", script],  # the user's torch.py is not torch
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_SECONDS:g} s"
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return lines[-1] if lines else f"its process ended with {done.returncode}"
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer
