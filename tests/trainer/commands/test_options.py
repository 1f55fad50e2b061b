import click
import pytest
import torch

from kshot.trainer.commands.options import choose_device


@pytest.mark.parametrize(
    ("asked", "gpu", "chosen"),
    [
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cpu", True, "cpu"),
        ("cuda", True, "cuda"),
    ],
)
def test_auto_takes_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, asked: str, gpu: bool, chosen: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)

    assert choose_device(asked) == torch.device(chosen)
    assert torch.get_num_threads() == 1


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(click.UsageError, match="torch sees no GPU; expected cpu or auto"):
        choose_device("cuda")
