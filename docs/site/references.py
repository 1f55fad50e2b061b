"""Pages of the reference: docstrings, the help of commands, the comments of the wire."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import click
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)

from kshot.__main__ import command

ROOT = Path(__file__).parents[2]
PYTHON = {
    "python": ("Python client", ["kshot.client"]),
    "learner": ("Bundles and learner", ["kshot.bundle", "kshot.learner"]),
}
Comments = Mapping[tuple[int, ...], str]


def write(folder: Path) -> None:
    """Write all pages into a folder; raises `CalledProcessError` where `buf` cannot read them."""
    folder.mkdir(exist_ok=True)
    pages = {f"{name}.rst": python_page(*what) for name, what in PYTHON.items()}
    pages |= {"commands.md": commands_page(), "wire.md": wire_page(described())}
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:  # else Sphinx reads it again
            path.write_text(text)


def python_page(title: str, modules: Sequence[str]) -> str:
    """Return a page with the public names of some modules."""
    parts = [f"{title}\n{'=' * len(title)}\n"]
    parts += [f"{name}\n{'-' * len(name)}\n\n.. automodule:: {name}\n" for name in modules]
    return "\n".join(parts)


def commands_page() -> str:
    """Return the help of every command, as a terminal shows it."""
    parts = ["# Commands"]
    parts += [f"## {name}\n\n```text\n{text}\n```" for name, text in helps(command, "kshot")]
    return "\n\n".join(parts) + "\n"


def helps(
    shown: click.Command, name: str, parent: click.Context | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the name and the help of a command and of all below it."""
    context = click.Context(shown, parent, info_name=name, terminal_width=100)
    yield context.command_path, shown.get_help(context).rstrip()
    if isinstance(shown, click.Group):
        for below in shown.list_commands(context):
            if found := shown.get_command(context, below):
                yield from helps(found, below, context)


def described() -> Sequence[FileDescriptorProto]:
    """Return the files of package kshot.v1, with their comments."""
    buf = Path(sys.executable).with_name("buf")
    command = [str(buf), "build", "proto", "--as-file-descriptor-set", "-o", "-"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)  # noqa: S603 -- ours
    files = FileDescriptorSet.FromString(done.stdout).file
    return [file for file in files if file.package == "kshot.v1"]


def wire_page(files: Iterable[FileDescriptorProto]) -> str:
    """Return the reference of services, messages and enums, in the order of their files."""
    return "\n\n".join(["# Wire", *(part for file in files for part in _file(file))]) + "\n"


def _file(file: FileDescriptorProto) -> Iterator[str]:
    comments = {
        tuple(place.path): _markdown(place.leading_comments)
        for place in file.source_code_info.location
    }
    for index, service in enumerate(file.service):
        yield f"## {service.name}\n\n{comments[6, index]}"
        for number, method in enumerate(service.method):
            taken, given = (
                f"{'stream ' if streamed else ''}{_short(name)}"
                for streamed, name in (
                    (method.client_streaming, method.input_type),
                    (method.server_streaming, method.output_type),
                )
            )
            yield f"### {method.name}\n\n`{taken}` → `{given}`"
            yield comments[6, index, 2, number]
    for index, message in enumerate(file.message_type):
        yield from _message(message, message.name, (4, index), comments)
    for index, enum in enumerate(file.enum_type):
        yield _enum(enum, enum.name, (5, index), comments)


def _message(
    message: DescriptorProto, name: str, path: tuple[int, ...], comments: Comments
) -> Iterator[str]:
    yield f"## {name}\n\n{comments[path]}"
    for index, field in enumerate(message.field):
        yield f"`{_type(field)} {field.name} = {field.number}`"
        yield _quoted(comments[*path, 2, index])
    for index, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from _message(nested, f"{name}.{nested.name}", (*path, 3, index), comments)
    for index, enum in enumerate(message.enum_type):
        yield _enum(enum, f"{name}.{enum.name}", (*path, 4, index), comments)


def _enum(enum: EnumDescriptorProto, name: str, path: tuple[int, ...], comments: Comments) -> str:
    parts = [f"## {name}", comments[path]]
    for index, value in enumerate(enum.value):
        parts += [f"`{value.name} = {value.number}`", _quoted(comments[*path, 2, index])]
    return "\n\n".join(parts)


def _type(field: FieldDescriptorProto) -> str:
    kind = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    name = _short(field.type_name) if field.type_name else kind
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    return f"repeated {name}" if repeated else name


def _short(name: str) -> str:
    return name.removeprefix(".").removeprefix("kshot.v1.")


def _markdown(comment: str) -> str:
    return re.sub(r"^ ", "", comment, flags=re.MULTILINE).strip()


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())
