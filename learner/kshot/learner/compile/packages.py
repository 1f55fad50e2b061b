"""Checks of compiled packages before anything in them is run."""

from pathlib import Path
from zipfile import BadZipFile, ZipFile

SHARED_LIBRARIES = (b"libstdc++.so", b"libc++.so")


def check_archive(path: Path) -> None:
    """Raise `BadZipFile` where bytes have changed: torch's loader would run them."""
    with ZipFile(path) as archive:
        if damaged := archive.testzip():
            raise BadZipFile(f"{damaged} is damaged")


def check_libraries(package: Path) -> None:
    """Raise `ValueError` where the compiler linked the C++ library into the program itself.

    Beside the one that torch has loaded it fails at the first use of a stream, or kills the process
    that loads the program.
    """
    with ZipFile(package) as archive:
        for name in archive.namelist():
            if name.endswith(".so") and not any(
                library in archive.read(name) for library in SHARED_LIBRARIES
            ):
                raise ValueError(
                    "CXX: expected a compiler that links the C++ library dynamically, got one "
                    "that links it into programs; use one without -static-libstdc++"
                )
