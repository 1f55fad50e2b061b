"""What an exported file says of itself, and the record that an import makes of it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from kshot.bundle import BatchNormMode, Manifest
from kshot.server.errors import InvalidRequest
from kshot.server.predict.export import ADAPTATION_FIELDS
from kshot.server.request.inputs import SupportSet
from kshot.server.request.options import AdaptOptions, Bounds, TtlLimits, resolve_options
from kshot.server.request.validation import check_labels
from kshot.server.request.violations import Violations
from kshot.server.store.adapted_model import AdaptedModelRecord

_DIGEST = re.compile("[0-9a-f]{64}")
_MAX_VERSIONS, _MAX_TEXT = 32, 64
_MAX_JSON = 2**20
_METADATA = "the metadata of an export"


@dataclass(frozen=True)
class ExportFacts:
    """What the metadata of a file say: names and digests, and more as JSON."""

    model: str
    bundle_digest: str
    weights_digest: str
    mode: BatchNormMode
    class_names: tuple[str, ...]
    options: AdaptOptions
    adaptation: Mapping[str, Any]

    @staticmethod
    def of(model: onnx.ModelProto) -> ExportFacts:
        """Read the metadata; raise `ValueError`, `KeyError` or the like for other metadata."""
        entries = {entry.key: entry.value for entry in model.metadata_props}
        adaptation = _parsed(entries["kshot.adaptation"])
        names = _parsed(entries["kshot.class_names"])
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError("expected class names as text")
        "".join(names).encode()  # JSON can have lone surrogates, which no text of a call has
        return ExportFacts(
            entries["kshot.model"],
            entries["kshot.bundle_digest"],
            entries["kshot.weights_digest"],
            BatchNormMode(entries["kshot.batch_norm_mode"]),
            tuple(names),
            AdaptOptions.from_document(adaptation["options"]),
            {name: adaptation[name] for name in ADAPTATION_FIELDS},
        )


def _parsed(text: str) -> Any:  # noqa: ANN401 -- any JSON
    """Read JSON, which takes many times its size in memory."""
    if len(text) > _MAX_JSON:
        raise ValueError(f"expected at most {_MAX_JSON} characters, got {len(text)}")
    return json.loads(text)


def record_of(
    facts: ExportFacts, manifest: Manifest, ttl: float | None, ttls: TtlLimits
) -> AdaptedModelRecord:
    """Return the record of an import, as without `retain_support`; raise `InvalidRequest`."""
    noted, way = Violations(), len(facts.class_names)
    check_labels(
        SupportSet(None, tuple(range(way)), facts.class_names),
        way,
        (2, manifest.limits.max_way),
        noted,
    )
    if facts.mode not in manifest.batch_norm.allowed:
        raise refusal(f"one of the modes {', '.join(manifest.batch_norm.allowed)}", facts.mode)
    if facts.mode is BatchNormMode.SUPPORT_AND_QUERY:
        raise refusal(
            "another mode", "support_and_query, which needs the support set; export in another"
        )
    told = facts.adaptation
    count = _whole(told["support_count"], 1, manifest.limits.max_support_count)
    asked = vars(facts.options) | {
        "batch_norm_mode": facts.mode,
        "retain_support": False,
        "readapt": False,
    }
    del asked["ttl"], asked["durability"]
    if ttl is not None:
        asked["ttl"] = ttl
    options = resolve_options(asked, Bounds(manifest, max(way, 1), count, ttls), noted)
    if noted:
        raise refusal("class names and options that the model takes", "others")
    accuracy, now = told["support_accuracy"], time.time()
    if not (isinstance(accuracy, float) and 0 <= accuracy <= 1):
        raise refusal("a support_accuracy from 0 to 1", "another")
    return AdaptedModelRecord(
        id="",
        model=manifest.name,
        bundle_digest=facts.bundle_digest,
        weights_digest=facts.weights_digest,
        adaptation_digest=_digest(told["adaptation_digest"]),
        class_names=facts.class_names,
        options=options,
        create_time=now,
        expire_time=now + options.ttl,
        size_bytes=0,
        step_count=_whole(told["step_count"], 0, manifest.limits.max_step_count),
        support_accuracy=accuracy,
        support_digest=_digest(told["support_digest"]) if told["support_digest"] else "",
        support_count=count,
        support_kept=False,
        model_version=_whole(told["model_version"], 0, 2**31 - 1),
        library_versions=_versions(told["library_versions"]),
    )


def _whole(value: object, least: int, greatest: int) -> int:
    if type(value) is not int or not least <= value <= greatest:
        raise refusal(_METADATA, "a number outside of its range")
    return value


def _digest(value: object) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise refusal(_METADATA, "a digest without 64 hexadecimal digits")
    return value


def _versions(value: object) -> dict[str, str]:
    """Return versions of libraries by name, cut to the length of such texts."""
    if not isinstance(value, dict) or len(value) > _MAX_VERSIONS:
        raise refusal(
            f"{_METADATA} with versions of at most {_MAX_VERSIONS} libraries", "another value"
        )
    found = {str(name)[:_MAX_TEXT]: str(version)[:_MAX_TEXT] for name, version in value.items()}
    return {name: version for name, version in found.items() if (name + version).isprintable()}


def refusal(expected: str, got: str) -> InvalidRequest:
    """Return the error of a file that is not such an export."""
    remedy = "only files that ExportAdaptedModel of this release made can be imported"
    return InvalidRequest.about("chunk", f"expected {expected}, got {got}; {remedy}")
