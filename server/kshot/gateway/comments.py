"""What the .proto says of messages, fields, enums and calls: the generated modules leave it out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.message import Message

from kshot.v1 import adaptation_pb2 as wire


def read_comments() -> Mapping[str, str]:
    """Return comments as Markdown, by full name; a value of an enum is below it.

    They are in the file that `make proto` writes beside the generated modules.
    """
    path = Path(wire.__file__).with_name("adaptation.binpb")
    (file,) = FileDescriptorSet.FromString(path.read_bytes()).file
    return comments_of(file)


def comments_of(file: FileDescriptorProto) -> Mapping[str, str]:
    """Return the comments of a file that has its source's."""
    return {
        _name(file, location.path): _text(location.leading_comments)
        for location in file.source_code_info.location
        if location.leading_comments
    }


def _name(file: FileDescriptorProto, path: Sequence[int]) -> str:
    """Return the name of what a path leads to: a field of the descriptor, an index, and so on."""
    names, place = [file.package], file
    for number, index in zip(path[::2], path[1::2], strict=True):
        found: Sequence[Message] = getattr(place, place.DESCRIPTOR.fields_by_number[number].name)
        place = found[index]  # type: ignore[assignment]  # each is another kind of descriptor
        names.append(place.name)
    return ".".join(names)


def _text(comment: str) -> str:
    return "\n".join(line.removeprefix(" ") for line in comment.splitlines()).strip()
