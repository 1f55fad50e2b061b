import importlib
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from kshot.gateway.comments import comments_of, read_comments

REPOSITORY = Path(__file__).parents[2]
FILES = {
    "kshot/v1/adaptation.proto": "kshot.v1.adaptation_pb2",
    "kshot/v1/admin.proto": "kshot.v1.admin_pb2",
    "kshot/internal/v1/engine.proto": "kshot.internal.v1.engine_pb2",
    "kshot/oip/v2/grpc_service.proto": "kshot.oip.v2.grpc_service_pb2",
}


def buf(*arguments: str) -> bytes:
    path = shutil.which("buf", path=sysconfig.get_path("scripts")) or shutil.which("buf")
    if path is None:
        pytest.skip("buf is not installed")
    done = subprocess.run([path, *arguments], cwd=REPOSITORY, capture_output=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    return done.stdout


def sources(*options: str) -> dict[str, descriptor_pb2.FileDescriptorProto]:
    """Compile the .proto files as they are now."""
    image = buf("build", *options, "--as-file-descriptor-set", "-o", "-")
    descriptors = descriptor_pb2.FileDescriptorSet.FromString(image)
    return {file.name: file for file in descriptors.file if file.name.startswith("kshot/")}


def test_every_proto_file_is_listed_here() -> None:
    found = {
        str(path.relative_to(REPOSITORY / "proto"))
        for path in (REPOSITORY / "proto").rglob("*.proto")
    }

    assert found == set(FILES)


def test_generated_modules_are_up_to_date() -> None:
    compiled = sources("--exclude-source-info")

    for name, module in FILES.items():
        committed = descriptor_pb2.FileDescriptorProto()
        importlib.import_module(module).DESCRIPTOR.CopyToProto(committed)
        source = compiled[name]
        for file in (committed, source):
            clear_json_names(file)
        assert committed == source, f"{module} is not what {name} says: run proto/generate.sh"


def test_the_comments_are_up_to_date() -> None:
    """The description of the HTTP interface has them."""
    said = comments_of(sources()["kshot/v1/adaptation.proto"])

    assert read_comments() == said, "adaptation.binpb is not what the .proto says: run make proto"
    assert len(said) > 300


def clear_json_names(file: descriptor_pb2.FileDescriptorProto) -> None:
    """Drop what compilers derive from the names: some write it down and some do not."""
    waiting = list(file.message_type)
    while waiting:
        message = waiting.pop()
        waiting.extend(message.nested_type)
        for field in message.field:
            field.ClearField("json_name")


def test_generated_files_stand_beside_their_source() -> None:
    for name in FILES:
        stem = REPOSITORY / "proto" / name.removesuffix(".proto")
        for ending in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi"):
            assert Path(f"{stem}{ending}").is_file()


def test_buf_lint_passes() -> None:
    buf("lint")


def test_buf_format_passes() -> None:
    assert buf("format", "--diff") == b""
