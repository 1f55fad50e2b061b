"""The options of an adaptation: as callers write them, as the wire has them, as they come back."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import timedelta
from typing import Any, TypedDict

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration

from kshot.client.errors import InputError
from kshot.client.values import check_flag, check_number, check_seconds, check_whole, shown
from kshot.v1 import adaptation_pb2 as wire


class AdaptOptions(TypedDict, total=False):
    """Options of `adapt`; an absent one, or None, means the model's default.

    `preconditioner`, `head`, `scope`, `batch_norm_mode` and `durability` are names such as
    `carried`; `ttl` and `time_budget` are seconds or timedeltas. `Client.capabilities` tells what
    the server allows.
    """

    step_count: int | None
    learning_rate: float | None
    batch_size: int | None
    preconditioner: str | None
    head: str | None
    scope: str | None
    batch_norm_mode: str | None
    seed: int | None
    ttl: float | timedelta | None
    allow_partial: bool | None
    deterministic: bool | None
    estimate: bool | None
    balance_classes: bool | None
    fold_count: int | None
    time_budget: float | timedelta | None
    retain_support: bool | None
    readapt: bool | None
    durability: str | None


@dataclass(frozen=True)
class ResolvedOptions:
    """The options that an adaptation ran with; times in seconds.

    Flags, encoding and decoding follow from the fields: their names, types and help.
    """

    step_count: int = field(metadata={"help": "Inner steps."})
    learning_rate: float = field(metadata={"help": "Learning rate of the inner loop."})
    batch_size: int = field(metadata={"help": "Examples in each inner step."})
    preconditioner: str = field(metadata={"help": "How gradients are scaled."})
    head: str = field(metadata={"help": "Rows of the last layer that adaptation starts from."})
    scope: str = field(
        metadata={
            "help": "Parameters that adapt; auto is the head, and the encoder's last layers where "
            "that helps."
        }
    )
    batch_norm_mode: str = field(metadata={"help": "Batch statistics that predictions use."})
    seed: int = field(metadata={"help": "Seed of the order in which examples are drawn."})
    ttl: float = field(metadata={"help": "Seconds that the server keeps the adapted model."})
    allow_partial: bool = field(
        metadata={"help": "Accept fewer steps if the time does not suffice for all."}
    )
    deterministic: bool = field(
        metadata={"help": "Run the task alone, so that equal requests give equal bytes."}
    )
    estimate: bool = field(
        metadata={
            "help": "Estimate the accuracy and note harmful examples; known scores need it.",
            "on_by_default": True,
        }
    )
    balance_classes: bool = field(
        metadata={"help": "Draw all classes equally often, however many examples each has."}
    )
    fold_count: int = field(
        metadata={
            "help": "Folds for the estimate of a model with steps; each takes as long as adapting."
        }
    )
    time_budget: float = field(
        metadata={
            "help": "Seconds of an idle core that scope auto may plan for, up to 600; a busy "
            "machine takes longer. They are added to --timeout."
        }
    )
    retain_support: bool = field(
        metadata={
            "help": "Keep the support set with the adapted model; revising it needs that.",
            "on_by_default": True,
        }
    )
    readapt: bool = field(
        metadata={"help": "Adapt again by itself once another version of the bundle is served."}
    )
    durability: str = field(
        metadata={
            "help": "What the adapted model survives: power cuts (disk), or nothing that ends the "
            "server (memory), which answers sooner."
        }
    )


DURATIONS = ("ttl", "time_budget")
_MOST_SECONDS = 315_576_000_000  # of a Duration: 10,000 years
_ENUMS: dict[str, Any] = {
    "preconditioner": wire.Preconditioner,
    "head": wire.Head,
    "scope": wire.Scope,
    "batch_norm_mode": wire.BatchNormMode,
    "durability": wire.Durability,
    "stop_reason": wire.StopReason,
    "adapt_stage": wire.AdaptStage,
    "example_flaw": wire.ExampleFlaw,
}


def encode_options(options: AdaptOptions) -> wire.AdaptOptions:
    """Write the options that are set; raise `InputError` for one that cannot be sent."""
    message = wire.AdaptOptions()
    known = [option.name for option in fields(ResolvedOptions)]
    for name, value in options.items():
        if value is None:
            continue
        if name not in known:
            raise InputError(f"unknown option {name!r}; expected one of {', '.join(known)}")
        if name in DURATIONS:
            set_duration(getattr(message, name), name, value)
        else:
            setattr(message, name, _checked(name, value))
    return message


def decode_options(options: wire.AdaptOptions) -> ResolvedOptions:
    """Read options as the server resolved them."""
    values: dict[str, Any] = {
        option.name: getattr(options, option.name) for option in fields(ResolvedOptions)
    }
    for name in values.keys() & _ENUMS.keys():
        values[name] = decode_choice(name, values[name])
    values |= {name: seconds(values[name]) for name in DURATIONS}
    return ResolvedOptions(**values)


def choices(kind: str) -> list[str]:
    """Return the names that an option such as `batch_norm_mode` can have, in the wire's order."""
    prefix = f"{kind.upper()}_"
    names = (name.removeprefix(prefix).lower() for name in list(_ENUMS[kind].keys()))
    return [name for name in names if name != "unspecified"]


def encode_choice(kind: str, value: object) -> Any:  # noqa: ANN401 -- the value of any enumeration
    """Return the number of a choice such as `support`; `kind` is the option's name."""
    name = str.__str__(value) if isinstance(value, str) else ""
    if name not in choices(kind):
        raise InputError(f"{kind}: expected one of {', '.join(choices(kind))}, got {shown(value)}")
    return _ENUMS[kind].Value(f"{kind.upper()}_{name.upper()}")


def decode_choice(kind: str, number: int) -> str:
    """Return the name of a choice; a number that this client does not know becomes its digits."""
    try:
        name = str(_ENUMS[kind].Name(number))
    except ValueError:
        return str(number)
    return name.removeprefix(f"{kind.upper()}_").lower()


def _checked(name: str, value: object) -> Any:  # noqa: ANN401 -- as the field has it
    """Return a value that the field of an option can hold; raise `InputError` for another."""
    if name in _ENUMS:
        return encode_choice(name, value)
    kind = wire.AdaptOptions.DESCRIPTOR.fields_by_name[name].cpp_type
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return check_flag(name, value)
    if kind == FieldDescriptor.CPPTYPE_DOUBLE:
        return check_number(name, value)
    return check_whole(name, value, 32 if kind == FieldDescriptor.CPPTYPE_INT32 else 64)


def set_duration(duration: Duration, name: str, value: object) -> None:
    """Write seconds or a timedelta; raise `InputError` for what is neither."""
    if isinstance(value, timedelta):
        duration.FromTimedelta(value)
        return
    span = check_seconds(name, value)
    if abs(span) > _MOST_SECONDS:
        raise InputError(f"{name}: expected at most {_MOST_SECONDS} seconds, got {shown(value)}")
    duration.FromNanoseconds(round(span * 1e9))


def seconds(duration: Duration) -> float:
    """Read a duration."""
    return duration.seconds + duration.nanos / 1e9
