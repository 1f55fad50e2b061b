"""The examples that each command's help ends with: one table, each line of which parses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import click

# The words after `kshot` that name a command or a group, and lines to type.
EXAMPLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "serve": (
            "kshot serve",
            "kshot serve --bundle drawings --bundle photos --listen 127.0.0.1:50052",
            "kshot serve --repository bundles --access access.json "
            "--tls-cert server.pem --tls-key server.key --listen 0.0.0.0:50051",
        ),
        "store": ("kshot store check ~/.local/state/kshot",),
        "store check": ("kshot store check ~/.local/state/kshot --json",),
        "store repair": ("kshot store repair ~/.local/state/kshot",),
        "store assign": ("kshot store assign --all --tenant lab --store ~/.local/state/kshot",),
        "store backup": ("kshot store backup ~/.local/state/kshot /backup/kshot",),
        "store restore": ("kshot store restore /backup/kshot ~/.local/state/kshot",),
        "keys": ("kshot keys create --access access.json --tenant lab --name notebook",),
        "keys create": (
            "kshot keys create --access access.json --tenant lab --name notebook",
            "kshot keys create --access access.json --tenant operators --role admin",
        ),
        "keys list": ("kshot keys list --access access.json --tenant lab",),
        "keys revoke": ("kshot keys revoke k3b9x0 --access access.json",),
        "keys rotate": ("kshot keys rotate k3b9x0 --access access.json --overlap 600",),
        "tenant": ("kshot tenant list --access access.json",),
        "tenant list": ("kshot tenant list --access access.json --json",),
        "tenant set": ("kshot tenant set lab --access access.json --max-models 100",),
        "tenant delete": ("kshot tenant delete lab --server kshot.example:50051 --tls",),
        "adapt": (
            "kshot adapt pets",
            "kshot adapt sketches --model drawings --ttl 86400 --json",
            "kshot adapt pets --server kshot.example:50051 --ca ca.pem --api-key-file key",
        ),
        "revise": (
            "kshot revise $ID --add more-pets",
            "kshot revise $ID --remove 3 --relabel 7=cat",
        ),
        "predict": (
            "kshot predict $ID new/*.jpg --top 1",
            "kshot predict $ID holiday --json",
            "kshot predict $ID pets-test --reject-below 0.1",
        ),
        "watch": (
            "kshot watch inbox --model $ID",
            "kshot watch inbox --model $ID --json --reject-below 0.1",
            "kshot watch inbox --model $ID --once",
        ),
        "models": ("kshot models list", "kshot models delete $ID"),
        "models list": (
            "kshot models list --model photos",
            """kshot models list --filter 'class_name = "cat" AND size_bytes > 1000'""",
        ),
        "models get": ("kshot models get $ID --json",),
        "models renew": (
            "kshot models renew $ID --ttl 604800",
            "kshot models renew $ID --expire-at 2030-01-31T12:00:00Z",
        ),
        "models import": ("kshot models import pets.onnx --ttl 86400",),
        "models delete": ("kshot models delete $ID $OTHER",),
        "models export": (
            "kshot models export $ID pets.onnx",
            "kshot models export $ID pets.onnx --batch-norm-mode support",
        ),
        "try": ("kshot try pets", "kshot try pets --bundle photos --json"),
        "train": (
            "kshot train --folder characters --out runs/characters",
            "kshot train omniglot-5way --data data --out runs/omniglot",
        ),
        "evaluate": ("kshot evaluate drawings --data data --json",),
        "calibrate": ("kshot calibrate runs/omniglot --data data --out bundles --set version=2",),
        "bundle": ("kshot bundle build photos", "kshot bundle inspect drawings"),
        "bundle build": (
            "kshot bundle build photos",
            "kshot bundle build shapes --onnx encoder.onnx --size 96 --out bundles",
        ),
        "bundle inspect": (
            "kshot bundle inspect drawings",
            "kshot bundle inspect bundles/shapes/2 --json",
        ),
        "bundle verify": ("kshot bundle verify bundles/shapes/2",),
        "bundle push": (
            "kshot bundle push bundles/shapes/2 --repository /srv/bundles",
            "kshot bundle push bundles/shapes/2 --repository /srv/bundles --label stable "
            "--reload --server localhost:50051",
        ),
        "recipes": ("kshot recipes", "kshot recipes omniglot-5way"),
        "download": ("kshot download omniglot --data data",),
        "bench": ("kshot bench serve",),
        "bench adapt": ("kshot bench adapt --json",),
        "bench encoder": ("kshot bench encoder --json",),
        "bench engines": ("kshot bench engines --json",),
        "bench predict": ("kshot bench predict --json",),
        "bench serve": ("kshot bench serve --json",),
        "bench train": ("kshot bench train --json",),
        "statistics": (
            "kshot statistics --api-key-file admin.key",
            "kshot statistics --server kshot.example:50051 --tls --json",
        ),
        "reload": ("kshot reload --api-key-file admin.key --timeout 120",),
        "doctor": ("kshot doctor", "kshot doctor --server kshot.example:50051 --tls --json"),
        "completion": (
            "kshot completion bash > ~/.local/share/bash-completion/completions/kshot",
            "kshot completion zsh > ~/.zfunc/_kshot",
            "kshot completion fish > ~/.config/fish/completions/kshot.fish",
        ),
    }
)


def with_examples(command: click.Command, path: str) -> click.Command:
    """Let the help of a command, and of those in its group, end with its examples; return it."""
    if lines := EXAMPLES.get(path):
        command.epilog = "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            with_examples(inner, f"{path} {name}")
    return command
