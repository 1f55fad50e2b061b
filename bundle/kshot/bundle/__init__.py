"""What trainer, engine and front agree on: the bundle on disk, its manifest and preprocessing."""

from __future__ import annotations

from kshot.bundle.choices import BatchNormMode, Head, Preconditioner, Scope
from kshot.bundle.durable import replace_file, replacing, sync_folder, write_synced
from kshot.bundle.errors import BundleError, ImageError, ImageProblem
from kshot.bundle.files import Bundle, builtin_bundle, load_bundle, locate_bundle, write_bundle
from kshot.bundle.images import ImageLimits, count_pixels, decode_image
from kshot.bundle.manifest import (
    SCHEMA_VERSION,
    BatchNorm,
    BatchSizeRule,
    Calibration,
    EvaluationRow,
    FileEntry,
    Grayscale,
    HeadPolicy,
    InnerLoop,
    InputSpec,
    Limits,
    Manifest,
    NetworkSpec,
    PreprocessingStep,
    Provenance,
    Rescale,
    Resize,
    Rgb,
    ScopePolicy,
    TemperatureRule,
    Training,
)
from kshot.bundle.preprocessing import pixels, prepare, rescale
from kshot.bundle.schema import manifest_document, parse_manifest
from kshot.bundle.weights import Weights

__all__ = [
    "SCHEMA_VERSION",
    "BatchNorm",
    "BatchNormMode",
    "BatchSizeRule",
    "Bundle",
    "BundleError",
    "Calibration",
    "EvaluationRow",
    "FileEntry",
    "Grayscale",
    "Head",
    "HeadPolicy",
    "ImageError",
    "ImageLimits",
    "ImageProblem",
    "InnerLoop",
    "InputSpec",
    "Limits",
    "Manifest",
    "NetworkSpec",
    "Preconditioner",
    "PreprocessingStep",
    "Provenance",
    "Rescale",
    "Resize",
    "Rgb",
    "Scope",
    "ScopePolicy",
    "TemperatureRule",
    "Training",
    "Weights",
    "builtin_bundle",
    "count_pixels",
    "decode_image",
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
    "write_bundle",
    "write_synced",
]
