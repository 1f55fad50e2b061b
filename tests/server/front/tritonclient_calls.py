"""Calls a server with `tritonclient` and prints its answers; runs in an environment of its own.

Reads a JSON object from stdin: the address, the key and the authority's file or none, the adapted
model's id, and images `(n, height, width)` as numbers and as base64 of PNG files.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio

SECONDS = 60.0


def inputs_of(asked: dict[str, Any], datatype: str) -> list[Any]:
    pixels = np.array(asked["images"], np.uint8)
    array: np.ndarray[Any, Any] = pixels
    if datatype == "FP32":
        array = (pixels / 255).astype(np.float32)[:, None]
    if datatype == "BYTES":
        array = np.array([base64.b64decode(item) for item in asked["files"]], dtype=np.object_)
    tensor = triton.InferInput("images", list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return [tensor]


def read(result: Any) -> dict[str, Any]:  # noqa: ANN401 -- an untyped library's
    response = result.get_response(as_json=True)
    return {
        "id": response.get("id", ""),
        "version": response["model_version"],
        "outputs": {
            output["name"]: [
                item.decode() if isinstance(item, bytes) else item
                for item in result.as_numpy(output["name"]).ravel().tolist()
            ]
            for output in response["outputs"]
        },
        "shapes": {
            output["name"]: list(map(int, output["shape"])) for output in response["outputs"]
        },
    }


def refused(call: Callable[[], object]) -> list[str]:
    try:
        call()
    except triton.InferenceServerException as error:
        return [str(error.status()), error.message()]
    return ["OK", ""]


def answers(asked: dict[str, Any]) -> dict[str, Any]:
    key, model = asked["key"], asked["model"]
    headers = {"authorization": f"Bearer {key}"} if key else None
    secure: Any = {"ssl": True, "root_certificates": asked["ca"]} if asked["ca"] else {}
    client = triton.InferenceServerClient(asked["address"], **secure)
    of_call: Any = {"headers": headers, "client_timeout": SECONDS}

    def infer(name: str, datatype: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401 -- any option
        return read(client.infer(name, inputs_of(asked, datatype), **of_call, **more))

    async def infer_later() -> dict[str, Any]:
        async with triton_aio.InferenceServerClient(asked["address"], **secure) as other:
            return read(await other.infer(model, inputs_of(asked, "UINT8"), **of_call))

    wanted = [triton.InferRequestedOutput(name) for name in ("logits", "probabilities")]
    options = {"top_k": 2, "batch_norm_mode": "support"}
    return {
        "live": client.is_server_live(**of_call),
        "ready": client.is_server_ready(**of_call),
        "models_ready": {
            name: client.is_model_ready(name, **of_call) for name in (model, "encoded", "nothing")
        },
        "server": client.get_server_metadata(as_json=True, **of_call),
        "model": client.get_model_metadata(model, as_json=True, **of_call),
        "by_datatype": {each: infer(model, each) for each in ("UINT8", "FP32", "BYTES")},
        "chosen": infer(model, "UINT8", outputs=wanted, request_id="mine", model_version="1"),
        "best": infer(model, "UINT8", parameters=options),
        "compressed": infer(model, "UINT8", compression_algorithm="gzip"),
        "later": asyncio.run(infer_later()),
        "embedding": infer("encoded", "UINT8"),
        "refused": {
            "adapt first": refused(lambda: infer("tiny", "UINT8")),
            "nothing": refused(lambda: infer("nothing", "UINT8")),
            "parameter": refused(lambda: infer("encoded", "UINT8", parameters={"top_k": 1})),
            "no key": refused(lambda: client.is_server_live(client_timeout=SECONDS)),
        },
    }


def main() -> None:
    json.dump(answers(json.load(sys.stdin)), sys.stdout)


if __name__ == "__main__":
    main()
