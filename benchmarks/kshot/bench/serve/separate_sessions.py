"""A plain server with a session of the encoder for each caller: what a shared one is compared to.

python -m kshot.bench.serve.separate_sessions BUNDLE COUNT

Prints its port. A request is the number of a session in four bytes and an encoded picture; the
answer is the logits of a linear head, float32.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnxruntime

from kshot.bundle import load_bundle, prepare

METHOD = "/kshot.bench.Sessions/Predict"
CLASSES = 5
NUMBER_BYTES = 4


def request(number: int, picture: bytes) -> bytes:
    """Ask a session about an encoded picture."""
    return number.to_bytes(NUMBER_BYTES, "little") + picture


def serve(folder: Path, count: int) -> tuple[grpc.Server, int]:
    """Start a server of `count` sessions; returns it and its port."""
    bundle = load_bundle(folder)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = [
        onnxruntime.InferenceSession(
            bundle.encoder_path, options, providers=["CPUExecutionProvider"]
        )
        for _ in range(count)
    ]
    size = bundle.manifest.feature_count
    heads = np.random.default_rng(0).normal(size=(count, size, CLASSES)).astype(np.float32)

    def predict(asked: bytes, _context: object) -> bytes:
        number = int.from_bytes(asked[:NUMBER_BYTES], "little")
        images = prepare([asked[NUMBER_BYTES:]], bundle.manifest.input)
        (encoded,) = sessions[number].run(["encoded"], {"images": images})
        logits: bytes = (encoded.reshape(1, -1)[:, :size] @ heads[number]).tobytes()
        return logits

    service, name = METHOD.strip("/").split("/")
    server = grpc.server(ThreadPoolExecutor(count))
    handler: Any = grpc.unary_unary_rpc_method_handler(predict)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {name: handler}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


if __name__ == "__main__":
    running, own_port = serve(Path(sys.argv[1]), int(sys.argv[2]))
    print(own_port, flush=True)
    running.wait_for_termination()
