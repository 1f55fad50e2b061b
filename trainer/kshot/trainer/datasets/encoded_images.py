"""The images of a data set behind a bundle's encoder, kept between runs as float16."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from kshot.bundle import Bundle, rescale
from kshot.local import pip_install
from kshot.trainer.datasets.cache import cached_dataset
from kshot.trainer.datasets.dataset import ImageDataset, make_dataset
from kshot.trainer.datasets.device_images import DevicePixels
from kshot.trainer.errors import DataError

# Larger runs take longer per image on a CPU.
IMAGES_PER_RUN = 8
_LARGEST = float(np.finfo(np.float16).max)


def encoded_pixels(
    dataset: ImageDataset,
    bundle: Bundle,
    device: torch.device,
    report: Callable[[int, int], None] = lambda _done, _total: None,
) -> DevicePixels:
    """Load a data set as the network of a bundle takes it: encoded where it has an encoder.

    Encoding happens once: it is kept in the cache, by the digests of the encoder, the images and
    their preparation. `report` hears of the images encoded so far and of their total. Raises
    `DataError` when the images do not fit the input.
    """
    if bundle.encoder_path is None:
        return DevicePixels.load(dataset, bundle.manifest.input, device)
    spec, shape = bundle.manifest.input, tuple(dataset.images.shape[1:])
    if shape != spec.shape:
        raise DataError(f"images of {dataset.name}: expected shape {spec.shape}, got {shape}")
    key = "|".join(("encoded", str(bundle.encoder_digest), dataset.digest, repr(spec)))
    path = bundle.encoder_path

    def encode() -> ImageDataset:
        images = _encode(dataset, bundle, path, report)
        return make_dataset(
            dataset.name, images, dataset.class_offsets, dataset.class_names, dataset.split_digest
        )

    return DevicePixels.of_features(cached_dataset(key, encode).images, device)


def _encode(
    dataset: ImageDataset, bundle: Bundle, path: Path, report: Callable[[int, int], None]
) -> torch.Tensor:
    """Encode all images on all cores: float16 `(n, *output_shape)`."""
    try:  # only an encoder needs it
        import onnxruntime
    except ModuleNotFoundError as error:
        needed = f"needs 'onnxruntime', which is not installed: {pip_install('train,cpu')}"
        raise DataError(f"{path}: an encoder {needed}") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    count, images = dataset.image_count, dataset.images.numpy()
    encoded = np.empty((count, *bundle.manifest.network_input_shape), np.float16)

    def run(start: int) -> int:
        part = slice(start, start + IMAGES_PER_RUN)
        prepared = rescale(images[part], bundle.manifest.input)
        (made,) = session.run(["encoded"], {"images": prepared})
        encoded[part] = made.clip(-_LARGEST, _LARGEST)
        return len(made)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        done = 0
        for size in pool.map(run, range(0, count, IMAGES_PER_RUN)):
            done += size
            report(done, count)
    return torch.from_numpy(encoded)
