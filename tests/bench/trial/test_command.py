import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from kshot.bench.trial.command import command

MakeFolder = Callable[..., Path]


def test_bundles_and_rivals_are_tried(make_folder: MakeFolder, tmp_path: Path) -> None:
    folder, plot = make_folder(blue=3, red=2), tmp_path / "confusion.png"
    words = [str(folder), "--bundle", "omniglot", "--plot", str(plot), "--json"]

    done = CliRunner().invoke(command, words)

    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert len(found["contenders"]) == 5
    assert (found["bundle"], found["folds"], found["pictures"]) == ("omniglot", 2, 5)
    assert {one["accuracy"] for one in found["contenders"]} >= {1.0}
    assert found["next"][0] == "kshot serve --bundle omniglot"
    assert "omniglot" in found["accuracy_by_examples"]
    assert plot.stat().st_size > 5_000
    assert "cross-validating: 10/10 folds" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bundle", "omniglot", "--server", "localhost:1"], "cannot be combined with --server"),
        (["--api-key-file", "key"], "--api-key-file requires --server"),
        (["--plot", "confusion.jpg"], "expected a file that ends in .png"),
        (["--pictures", "1"], "1 is not in the range x>=4"),
        (["--time-budget", "0"], "0.0 is not in the range 0<x<=600"),
    ],
)
def test_wrong_use_is_refused(words: list[str], message: str) -> None:
    done = CliRunner().invoke(command, ["anywhere", *words])

    assert done.exit_code == 2
    assert message in done.stderr
