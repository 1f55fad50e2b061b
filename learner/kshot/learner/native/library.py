"""The library of native steps: compiled for this machine's processor, kept as a package."""

import ctypes
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-shared", "-fPIC")
LIBRARY = "step.so"


def write_native_package(compiler: str, package: Path) -> None:
    """Compile the library into an archive; raise `RuntimeError` with the compiler's first error."""
    source, library = Path(__file__).with_name("step.cpp"), package.with_name(LIBRARY)
    ran = subprocess.run(  # noqa: S603 -- a compiler on the user's own path
        [compiler, *FLAGS, "-o", str(library), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        errors = [line for line in ran.stderr.splitlines() if "error" in line]
        raise RuntimeError(next(iter(errors), f"{compiler} ended with {ran.returncode}"))
    with ZipFile(package, "w") as archive:
        archive.write(library, LIBRARY)


def load_native_package(package: Path) -> ctypes.CDLL:
    """Load the library of a package; raise `OSError` where its code may not be run."""
    with TemporaryDirectory(prefix="kshot-step-") as folder, ZipFile(package) as archive:
        return ctypes.CDLL(archive.extract(LIBRARY, folder))
