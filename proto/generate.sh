#!/bin/sh
# Generate the Python modules beside their .proto files, with the oldest grpcio-tools that the
# dependencies of the project admit: generated modules refuse a runtime older than their generator.
# The generator lives in a virtual environment of its own, .venv-proto, made on the first run.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if [ ! -x .venv-proto/bin/protoc-gen-mypy ]; then
    "$python" -m venv .venv-proto
    .venv-proto/bin/pip install --quiet grpcio-tools==1.71.2 mypy-protobuf==3.6.0 'setuptools<81'
fi
cd proto
PATH="$PWD/../.venv-proto/bin:$PATH"
../.venv-proto/bin/python -m grpc_tools.protoc -I . \
    --python_out=. --mypy_out=. --grpc_python_out=. --mypy_grpc_out=. \
    kshot/v1/*.proto kshot/internal/v1/*.proto kshot/oip/v2/*.proto
# With the comments, for the description of the HTTP interface.
../.venv-proto/bin/python -m grpc_tools.protoc -I . --include_source_info \
    --descriptor_set_out=kshot/v1/adaptation.binpb kshot/v1/adaptation.proto
