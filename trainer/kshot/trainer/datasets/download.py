"""A checked download of Omniglot from its author's repository."""

from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from kshot.local import destination
from kshot.trainer.datasets.image_files import list_archive
from kshot.trainer.datasets.omniglot import FOLDERS, archive_names, check_drawings
from kshot.trainer.errors import DataError

OMNIGLOT_URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
# SHA-256 over the names and bytes of the drawings in each archive, `ImageFiles.content_digest`.
CONTENT_DIGESTS = {
    "images_background": "2a97a1b7cf1ce8a0652808ad5386ee4187fd5a695c02f7288868389720bd77f0",
    "images_evaluation": "d55490151ba24ee407f3a72f4045f0a5b3d11d92ed1a4e21c539938d283c757a",
}
# Each archive has less than 10 MB; a longer answer is something else.
MAX_BYTES = 64 * 2**20
BLOCK_BYTES = 2**16
TIMEOUT_S = 60.0

Report = Callable[[str, int, int], None]


def download_omniglot(
    folder: Path, *, base_url: str = OMNIGLOT_URL, report: Report | None = None
) -> list[Path]:
    """Download the archives that the folder lacks, and return their paths.

    Existing archives, and the folders extracted from them, are left alone. Each download goes to a
    hidden file, which takes its name when all drawings in it have been checked by name and content,
    and is removed otherwise. `report` is called with the archive's name, the bytes received so far
    and their total. Raises `DataError`.
    """
    if _scheme(base_url) not in ("http", "https"):
        raise DataError(f"address: expected an https or http URL, got {base_url!r}")
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
    except ValueError:  # such as an unclosed bracket
        return ""


def _download(url: str, path: Path, report: Report | None) -> None:
    try:
        with destination(path) as file:
            for block in _blocks(url, path.name, report):
                file.write(block)
            file.flush()
            _check(Path(file.name), path.stem, url)
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}") from error


def _blocks(url: str, name: str, report: Report | None) -> Iterator[bytes]:
    """Yield what an address sends; raise `DataError` when that is missing, cut off or too long."""
    try:
        with urlopen(url, timeout=TIMEOUT_S) as response:  # noqa: S310 -- the scheme is checked
            total = int(response.headers.get("Content-Length") or 0)
            done = 0
            while block := response.read(BLOCK_BYTES):
                done += len(block)
                if done > MAX_BYTES:
                    raise DataError(f"{url}: expected at most {MAX_BYTES} bytes, got more")
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
    """Raise `DataError` unless an archive has exactly the drawings of Omniglot."""
    expected = CONTENT_DIGESTS[folder]
    try:
        files = list_archive(path, folder)
        check_drawings(files, folder)
        if (digest := files.content_digest()) != expected:
            raise DataError(f"expected the digest {expected} of its drawings, got {digest}")
    except DataError as error:
        raise DataError(f"{url} did not send Omniglot's {folder}.zip: {error}") from error
