from __future__ import annotations

import click
import pytest

from kshot.client import Client
from kshot.client.commands.models import get
from kshot.client.commands.names import complete_ids, complete_models

PARAMETER = get.params[0]


def context(address: str) -> click.Context:
    found = click.Context(get)
    found.params = {"server": address}
    return found


@pytest.mark.usefixtures("servicer")
def test_ids_and_models_come_from_the_server(client: Client, address: str) -> None:
    import numpy as np

    images = np.zeros((2, 4, 4), np.uint8)
    for _ in range(2):
        client.adapt(images, ["cat", "dog"], model="omniglot")

    ids = complete_ids(context(address), PARAMETER, "am-1")
    models = complete_models(context(address), PARAMETER, "o")

    assert [(each.value, each.help) for each in ids] == [("am-1", "cat, dog")]
    assert [each.value for each in models] == ["omniglot"]


def test_without_a_server_nothing_is_completed() -> None:
    assert complete_ids(context("127.0.0.1:1"), PARAMETER, "") == []
    assert complete_models(context("no address"), PARAMETER, "") == []
