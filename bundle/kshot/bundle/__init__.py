"""What trainer, engine and front agree on: the bundle on disk, its manifest and preprocessing."""

from __future__ import annotations

from kshot.bundle.calibration import Calibration, TemperatureRule
from kshot.bundle.choices import COMPUTED_MODES, BatchNormMode, Head, Preconditioner, Scope
from kshot.bundle.drawn import THUMBNAIL, are_drawings
from kshot.bundle.durable import replace_file, replacing, sync_folder, write_synced
from kshot.bundle.errors import BundleError, ImageError, ImageProblem
from kshot.bundle.files import Bundle, load_bundle, version_of_digest, write_bundle
from kshot.bundle.images import ImageLimits, count_pixels, decode_image
from kshot.bundle.locations import (
    built_folder,
    builtin_bundle,
    cache_folder,
    default_bundles,
    known_names,
    locate_bundle,
)
from kshot.bundle.manifest import (
    SCHEMA_VERSION,
    BatchNorm,
    BatchSizeRule,
    EncoderSpec,
    EvaluationRow,
    FileEntry,
    HeadPolicy,
    InnerLoop,
    Limits,
    Manifest,
    NetworkSpec,
    Provenance,
    ScopePolicy,
    StepCountRule,
    Training,
)
from kshot.bundle.preprocessing import (
    draft_side,
    pixels,
    prepare,
    rescale,
    useful_side,
    value_table,
)
from kshot.bundle.ridge import RidgeRule, RidgeSettings
from kshot.bundle.schema import manifest_document, parse_manifest
from kshot.bundle.steps import (
    Grayscale,
    Ink,
    InputSpec,
    Normalize,
    Polarity,
    PreprocessingStep,
    Reduce,
    Rescale,
    Resize,
    Rgb,
    Square,
)
from kshot.bundle.weights import Weights

__all__ = [
    "COMPUTED_MODES",
    "SCHEMA_VERSION",
    "THUMBNAIL",
    "BatchNorm",
    "BatchNormMode",
    "BatchSizeRule",
    "Bundle",
    "BundleError",
    "Calibration",
    "EncoderSpec",
    "EvaluationRow",
    "FileEntry",
    "Grayscale",
    "Head",
    "HeadPolicy",
    "ImageError",
    "ImageLimits",
    "ImageProblem",
    "Ink",
    "InnerLoop",
    "InputSpec",
    "Limits",
    "Manifest",
    "NetworkSpec",
    "Normalize",
    "Polarity",
    "Preconditioner",
    "PreprocessingStep",
    "Provenance",
    "Reduce",
    "Rescale",
    "Resize",
    "Rgb",
    "RidgeRule",
    "RidgeSettings",
    "Scope",
    "ScopePolicy",
    "Square",
    "StepCountRule",
    "TemperatureRule",
    "Training",
    "Weights",
    "are_drawings",
    "built_folder",
    "builtin_bundle",
    "cache_folder",
    "count_pixels",
    "decode_image",
    "default_bundles",
    "draft_side",
    "known_names",
    "load_bundle",
    "locate_bundle",
    "manifest_document",
    "parse_manifest",
    "pixels",
    "prepare",
    "replace_file",
    "replacing",
    "rescale",
    "sync_folder",
    "useful_side",
    "value_table",
    "version_of_digest",
    "write_bundle",
    "write_synced",
]
