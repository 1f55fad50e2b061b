"""The download and its command, from a server on this machine."""

import io
import os
import resource
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kshot.__main__ import main
from kshot.trainer.datasets import download, omniglot
from kshot.trainer.datasets.download import download_omniglot
from kshot.trainer.datasets.image_files import list_archive
from kshot.trainer.errors import DataError

REAL = Path(os.environ.get("KSHOT_DATA", "/nonexistent"))
needs_data = pytest.mark.skipif(
    not (REAL / "omniglot_images_background.zip").is_file(),
    reason="KSHOT_DATA names no folder with Omniglot's archives",
)
NAMES = ("images_background.zip", "images_evaluation.zip")


def archive(folder: str, seed: int = 0, drawing_count: int = 2) -> bytes:
    """Make an archive of two characters."""
    generator = np.random.default_rng(seed)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for character in ("character01", "character02"):
            for number in range(drawing_count):
                picture = io.BytesIO()
                Image.fromarray(generator.random((105, 105)) < 0.8).save(picture, format="PNG")
                made.writestr(f"{folder}/Greek/{character}/{number}.png", picture.getvalue())
    return stream.getvalue()


class Upstream:
    """What the server has by path, and where it cuts an answer short."""

    def __init__(self, address: str, files: dict[str, bytes]) -> None:
        self.address = address
        self.files = files
        self.sent_bytes: int | None = None
        self.asked: list[str] = []


@pytest.fixture
def upstream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Upstream]:
    """Serve archives of a small Omniglot, which the download takes for the real one."""
    files = {name: archive(name.removesuffix(".zip")) for name in NAMES}
    monkeypatch.setattr(omniglot, "DRAWING_COUNT", 2)
    monkeypatch.setattr(omniglot, "FOLDERS", {name.removesuffix(".zip"): 2 for name in NAMES})
    monkeypatch.setattr(download, "FOLDERS", omniglot.FOLDERS)
    monkeypatch.delenv("KSHOT_DATA", raising=False)
    digests = {}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        listed = list_archive(tmp_path / name, name.removesuffix(".zip"))
        digests[name.removesuffix(".zip")] = listed.content_digest()
        (tmp_path / name).unlink()
    monkeypatch.setattr(download, "CONTENT_DIGESTS", digests)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.removeprefix("/python/")
            served.asked.append(name)
            if name not in served.files:
                self.send_error(404)
                return
            content = served.files[name]
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: served.sent_bytes])

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = Upstream(f"http://127.0.0.1:{server.server_port}/python", files)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield served
        server.shutdown()
        thread.join()


def test_archives_come_whole_and_are_reported(upstream: Upstream, tmp_path: Path) -> None:
    reported: list[tuple[str, int, int]] = []

    made = download_omniglot(
        tmp_path / "new" / "data",
        base_url=upstream.address,
        report=lambda *counts: reported.append(counts),
    )

    assert [path.name for path in made] == list(NAMES)
    for path in made:
        content = upstream.files[path.name]
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o644
        assert (path.name, len(content), len(content)) in reported
    assert len(list((tmp_path / "new" / "data").iterdir())) == 2


@pytest.mark.parametrize("there", ["images_background.zip", "omniglot_images_background.zip"])
def test_an_archive_that_is_there_is_left_alone(
    upstream: Upstream, tmp_path: Path, there: str
) -> None:
    (tmp_path / there).write_bytes(b"the user's")

    made = download_omniglot(tmp_path, base_url=upstream.address)

    assert [path.name for path in made] == ["images_evaluation.zip"]
    assert upstream.asked == ["images_evaluation.zip"]
    assert (tmp_path / there).read_bytes() == b"the user's"


def test_an_extracted_folder_is_left_alone(upstream: Upstream, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name.removesuffix(".zip")).mkdir()

    assert download_omniglot(tmp_path, base_url=upstream.address) == []
    assert upstream.asked == []


def test_a_connection_that_ends_early_leaves_nothing_and_can_be_repeated(
    upstream: Upstream, tmp_path: Path
) -> None:
    upstream.sent_bytes = 300
    size = len(upstream.files[NAMES[0]])
    with pytest.raises(DataError, match=f"ended after 300 of {size} bytes; try again"):
        download_omniglot(tmp_path, base_url=upstream.address)
    assert list(tmp_path.iterdir()) == []

    upstream.sent_bytes = None
    assert len(download_omniglot(tmp_path, base_url=upstream.address)) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>", "did not send Omniglot's images_evaluation.zip: .* not a ZIP archive"),
        (archive("images_evaluation")[:-100], "truncated, or not a ZIP archive"),
        (archive("images_evaluation", drawing_count=1), "expected 2 images, got 1"),
        (archive("images_background"), "expected 2 characters, got 0"),
        (archive("images_evaluation", seed=1), "expected the digest .* of its drawings, got"),
    ],
)
def test_other_content_is_refused_and_the_whole_archive_kept(
    upstream: Upstream, tmp_path: Path, content: bytes, message: str
) -> None:
    upstream.files["images_evaluation.zip"] = content

    with pytest.raises(DataError, match=message):
        download_omniglot(tmp_path, base_url=upstream.address)

    assert [path.name for path in tmp_path.iterdir()] == ["images_background.zip"]


def test_what_never_ends_is_refused(
    upstream: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", 1000)

    with pytest.raises(DataError, match="expected at most 1000 bytes, got more"):
        download_omniglot(tmp_path, base_url=upstream.address)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_and_a_server_that_is_gone_are_told(
    upstream: Upstream, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"images_background.zip: HTTP 404 Not Found"):
        download_omniglot(tmp_path, base_url=upstream.address + "/elsewhere")
    with pytest.raises(DataError, match=r"cannot download http://127.0.0.1:1/images_.*refused"):
        download_omniglot(tmp_path, base_url="http://127.0.0.1:1")
    with pytest.raises(
        DataError, match="address: expected an https or http URL, got 'file:///etc'"
    ):
        download_omniglot(tmp_path, base_url="file:///etc")
    assert list(tmp_path.iterdir()) == []


def test_no_space_is_told_and_leaves_nothing(upstream: Upstream, tmp_path: Path) -> None:
    """A limit of this process stands for the disk: the write fails in the same place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        with pytest.raises(DataError, match=r"cannot write .*images_background.zip: File too lar"):
            download_omniglot(tmp_path, base_url=upstream.address)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(upstream: Upstream, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    with pytest.raises(DataError, match=r"cannot make the folder .*: (File exists|Not a dir)"):
        download_omniglot(tmp_path / "file", base_url=upstream.address)


def test_the_command_prints_what_came_and_shows_how_far_it_is(
    upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["download", "omniglot", "--data", str(tmp_path), "--url", upstream.address]

    assert main(arguments) == 0
    first = capsys.readouterr()
    assert first.out.splitlines() == [str(tmp_path / name) for name in NAMES]
    assert "downloading images_background.zip: " in first.err

    assert main(arguments) == 0
    again = capsys.readouterr()
    assert again.out == ""
    assert "already has omniglot: nothing was downloaded" in again.err


def test_the_command_refuses_what_it_does_not_know(
    upstream: Upstream, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["download", "omniglot"]) == 2
    assert "no data folder is named: give --data DIR or set KSHOT_DATA" in capsys.readouterr().err
    assert main(["download", "imagenet", "--data", str(tmp_path)]) == 2
    assert main(["download", "omniglot", "--data", str(tmp_path), "--url", "http://["]) == 1
    assert "address: expected an https or http URL, got 'http://['" in capsys.readouterr().err
    upstream.files.clear()
    assert main(["download", "omniglot", "--data", str(tmp_path), "--url", upstream.address]) == 1
    assert "HTTP 404" in capsys.readouterr().err


@needs_data
def test_the_real_drawings_have_the_digests() -> None:
    for folder, digest in download.CONTENT_DIGESTS.items():
        listed = list_archive(REAL / f"omniglot_{folder}.zip", folder)
        assert listed.content_digest() == digest
