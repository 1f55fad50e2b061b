"""What the index keeps of models, of those that are gone, and of requests: values with a digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from kshot.server.request.options import AdaptOptions
from kshot.server.store.adapted_model import AdaptedModelRecord

# What a row says of its file. One that is `WRITTEN` is on its way to the disk: nobody has heard of
# it before it is `WHOLE`. Of a `DAMAGED` one the file or the record is lost.
WHOLE, DAMAGED, WRITTEN = 0, 1, 2

Value = str | int | float | bytes | None


@dataclass(frozen=True)
class Row:
    """An adapted model: its record as JSON, what queries use of it, the SHA-256 of its file.

    The record of a damaged one may be empty. `tenant` owns it, None where nobody knows who does.
    """

    id: str
    model: str
    create_time: float
    expire_time: float
    size_bytes: int
    record: str
    sha256: str
    state: int = WHOLE
    tenant: str | None = ""

    @classmethod
    def of(cls, model: AdaptedModelRecord, sha256: str) -> Row:
        """Return the row of a model whose file has this digest."""
        times = (model.create_time, model.expire_time)
        text = record_text(model)
        return cls(
            model.id, model.model, *times, model.size_bytes, text, sha256, tenant=model.tenant
        )

    @classmethod
    def unknown(cls, model_id: str, times: tuple[float, float]) -> Row:
        """Return the row of an id of which nothing else is known: it answers that it is damaged."""
        return cls(model_id, "", *times, 0, "", "", state=DAMAGED, tenant=None)

    @property
    def in_memory(self) -> bool:
        """Tell whether the model ends with the process that keeps it, False if that is lost."""
        try:
            return self.adapted_model.in_memory
        except ValueError:
            return False

    @property
    def adapted_model(self) -> AdaptedModelRecord:
        """Return the whole record; raise `ValueError` if it is none."""
        return parse_record(self.record)


@dataclass(frozen=True)
class Tombstone:
    """What is remembered of a removed adapted model; Unix seconds."""

    id: str
    expire_time: float
    end_time: float
    deleted: int
    tenant: str = ""


@dataclass(frozen=True)
class AnsweredRequest:
    """The answer to a request id of a tenant, which made an adapted model; in Unix seconds.

    It is kept until `end_time`, also where its adapted model is gone: then `answer` is empty, and a
    repetition hears so. `body_digest` tells whether another request has the same id.
    """

    tenant: str
    request_id: str
    body_digest: str
    adapted_model: str
    answer: bytes
    end_time: float


@dataclass(frozen=True)
class Seen:
    """The clocks when the store was last in use, in seconds; `skipped` is what `StoreClock` has."""

    boot: str
    wall: float
    elapsed: float
    skipped: float


Columns = TypeVar("Columns", Row, Tombstone, AnsweredRequest, Seen)


def values(row: Row | Tombstone | AnsweredRequest | Seen) -> tuple[Value, ...]:
    """Return the columns of a row, the last of which is a digest over all others."""
    columns = tuple(vars(row).values())
    return (*columns, digest(columns))


def intact(kind: type[Columns], found: Sequence[Value]) -> Columns | None:
    """Return what was stored in columns, None if they have changed since.

    Schema 2 had fewer columns: the others have their defaults.
    """
    *columns, expected = found
    # The columns are those of the class, in its order.
    return kind(*columns) if digest(tuple(columns)) == expected else None  # type: ignore[arg-type]


def digest(columns: tuple[Value, ...]) -> str:
    """Return a SHA-256 (hex) over values and their types, whatever a flipped bit made of them."""
    return hashlib.sha256(json.dumps(columns, default=repr).encode()).hexdigest()


def record_text(model: AdaptedModelRecord) -> str:
    """Return a record as JSON."""
    return json.dumps({**vars(model), "options": model.options.document()}, allow_nan=False)


def parse_record(text: str) -> AdaptedModelRecord:
    """Return what `record_text` wrote, in any release; raise `ValueError` otherwise."""
    try:
        fields = json.loads(text)
        fields["class_names"] = tuple(fields["class_names"])
        fields["options"] = AdaptOptions.from_document(fields["options"])
        return AdaptedModelRecord(**fields)
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"expected the record of an adapted model: {error!r}") from error
