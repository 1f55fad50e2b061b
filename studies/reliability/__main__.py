"""`python -m studies.reliability PROOF`; `page` writes the table of docs/reliability.md."""

from __future__ import annotations

import click

from studies.reliability import (
    churn,
    encrypted,
    fuzz,
    kills,
    page,
    quiet,
    soak,
    storms,
    tenants,
    upgrade,
)

commands = (churn, kills, upgrade, storms, quiet, tenants, encrypted, fuzz, soak, page)


@click.group(commands={module.command.name: module.command for module in commands})
def main() -> None:
    """Prove that the server holds under load, death, storms and garbage."""


if __name__ == "__main__":
    main(prog_name="python -m studies.reliability")
