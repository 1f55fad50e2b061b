"""A checked download of Omniglot from its author's repository."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from kshot.trainer.datasets.image_files import list_archive
from kshot.trainer.datasets.omniglot import FOLDERS, archive_names, check_drawings
from kshot.trainer.errors import DataError

__all__ = ["OMNIGLOT_URL", "Report", "download_omniglot"]

OMNIGLOT_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
# SHA-256 over the names and bytes of the drawings in each archive, `ImageFiles.content_digest`.
CONTENT_DIGESTS = {
    "images_background": "2a97a1b7cf1ce8a0652808ad5386ee4187fd5a695c02f7288868389720bd77f0",
    "images_evaluation": "d55490151ba24ee407f3a72f4045f0a5b3d11d92ed1a4e21c539938d283c757a",
}
# Each archive has less than 10 MB: what goes on beyond this is something else.
MAX_BYTES = 64 * 2**20
BLOCK_BYTES = 2**16
TIMEOUT_S = 60.0

Report = Callable[[str, int, int], None]


def download_omniglot(
    folder: Path, *, base_url: str = OMNIGLOT_URL, report: Report | None = None
) -> list[Path]:
    """Get the archives that the folder lacks, and return those that came.

    An archive, or the folder extracted from it, that is there is left alone. Each archive comes
    into a hidden file, which takes its name when all drawings in it have been checked by name and
    content, and is removed otherwise. ``report`` is called with the archive's name, the bytes got
    so far and their total. Raises DataError.
    """
    if _scheme(base_url) not in ("http", "https"):
        raise DataError(f"address is {base_url!r}, wanted one with https or http")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {folder}: {error.strerror}") from error
    made = []
    for name in FOLDERS:
        if any((folder / there).exists() for there in (name, *archive_names(name))):
            continue
        path = folder / f"{name}.zip"
        _download(f"{base_url.rstrip('/')}/{path.name}", path, report)
        made.append(path)
    return made


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:  # as of half a pair of brackets
        return ""


def _download(url: str, path: Path, report: Report | None) -> None:
    temporary = None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            for block in _blocks(url, path.name, report):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
        _check(temporary, path.stem, url)
        temporary.chmod(0o644)  # a temporary file is its owner's alone
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if temporary is not None:
            with suppress(OSError):
                temporary.unlink()


def _blocks(url: str, name: str, report: Report | None) -> Iterator[bytes]:
    """Yield what the address sends; raises DataError when it sends nothing, less, or too much."""
    try:
        with urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310 -- the scheme is checked
            total = int(response.headers.get("Content-Length") or 0)
            done = 0
            while block := response.read(BLOCK_BYTES):
                done += len(block)
                if done > MAX_BYTES:
                    raise DataError(f"{url} sends more than {MAX_BYTES} bytes, wanted Omniglot's")
                if report is not None:
                    report(name, done, max(done, total))
                yield block
    except HTTPError as error:
        raise DataError(f"cannot download {url}: HTTP {error.code} {error.reason}") from error
    except URLError as error:
        raise DataError(f"cannot download {url}: {error.reason}") from error
    except (HTTPException, OSError, ValueError) as error:
        raise DataError(f"cannot download {url}: {error}") from error
    if done < total:
        raise DataError(
            f"cannot download {url}: the connection ended after {done} of {total} bytes; try again"
        )


def _check(path: Path, folder: str, url: str) -> None:
    """Raise DataError unless an archive has exactly the drawings of Omniglot."""
    try:
        files = list_archive(path, folder)
        check_drawings(files, folder)
        digest = files.content_digest()
    except DataError as error:
        raise DataError(f"what {url} sent is not Omniglot's {folder}.zip: {error}") from error
    if digest != CONTENT_DIGESTS[folder]:
        raise DataError(
            f"what {url} sent is not Omniglot's {folder}.zip: the digest of its drawings is "
            f"{digest}, wanted {CONTENT_DIGESTS[folder]}"
        )
