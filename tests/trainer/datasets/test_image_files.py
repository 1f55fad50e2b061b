import zipfile
from contextlib import suppress
from pathlib import Path

from kshot.trainer.datasets.image_files import find_image_files
from kshot.trainer.errors import DataError


def test_no_changed_byte_of_an_archive_raises_anything_but_a_data_error(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/group/class/\N{LATIN SMALL LETTER E WITH ACUTE}.png", b"image" * 9)
    whole = path.read_bytes()
    refused = 0

    for position in range(len(whole)):
        for flipped in (0x01, 0x80, 0xFF):
            damaged = bytearray(whole)
            damaged[position] ^= flipped
            path.write_bytes(damaged)
            with suppress(DataError):
                found = find_image_files(tmp_path, "folder", ["archive.zip"])
                with found.opened() as read:
                    for name in found.names:
                        read(name)
                continue
            refused += 1

    assert refused > len(whole)
