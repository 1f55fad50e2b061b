"""What README and the examples print runs as it is printed."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from examples.demo import __main__ as demo
from examples.demo.contest import CONTENDERS, measure
from examples.demo.figure import draw_picture
from examples.demo.pictures import Subject, digits, scenes
from examples.demo.server import running_server
from kshot.__main__ import main
from kshot.bundle import BatchNormMode, builtin_bundle, load_bundle
from kshot.client import Client
from kshot.client.estimator import shared_client

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
QUICK_START = (ROOT / "docs" / "quick-start.md").read_text()
PYTHON_PAGE = (ROOT / "docs" / "python.md").read_text()
SHELL_LINES = [
    line.split("  #")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for line in block.splitlines()
]
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def address(path_without_compiler: str) -> Iterator[str]:
    """The address of a server on the default bundles; `photos` is there where it was built."""
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", path_without_compiler)
            running = stack.enter_context(running_server())
        yield running


@pytest.mark.parametrize("line", [line for line in SHELL_LINES if line.startswith("kshot ")])
def test_every_command_and_option_in_readme_exists(
    line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = shlex.split(line)[1:]
    subcommand = words[: 2 if words[0] == "models" else 1]

    assert main([*subcommand, "--help"]) == 0

    shown = capsys.readouterr().out
    assert all(word in shown for word in words if word.startswith("--"))


def run_block(block: str, address: str) -> str:
    """Run a block of README in an interpreter of its own; return what it printed."""
    assert "localhost:50051" in block
    code = block.replace("localhost:50051", address)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def test_the_lines_about_errors_print_every_violation(address: str) -> None:
    printed = run_block(PYTHON_BLOCKS[1], address).splitlines()

    assert len(printed) >= 2
    assert any("step_count" in line for line in printed)


def test_the_quick_start_predicts(address: str) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", QUICK_START, re.DOTALL)

    printed = run_block(block, address)

    assert re.search(r"\d", printed)
    assert "AccuracyEstimate" in printed


def test_what_needs_no_server_runs(
    path_without_compiler: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It starts a server of its own; photographs would take it minutes beside other tests.

    The classifier of README runs beside the same server.
    """
    monkeypatch.setenv("PATH", path_without_compiler)
    monkeypatch.setenv("KSHOT_BUNDLE", "drawings")
    # A local server that other tests' classifiers have left to the next has other bundles.
    monkeypatch.setattr(shared_client, "_shared", {})
    with Client.local(timeout=120):  # so that all blocks share one
        exec("\n".join(re.findall(r"```python\n(.*?)```", PYTHON_PAGE, re.DOTALL)), {})  # noqa: S102
        assert "adapting" in (printed := capsys.readouterr().out)
        assert len(re.findall(r"[01]\.\d*", printed.splitlines()[-1])) == 3
        names: dict[str, Any] = {}
        exec(PYTHON_BLOCKS[0], names)  # noqa: S102

    monkeypatch.undo()  # scikit-learn counts cores by programs on the path
    rows, labels = names["digits"].data, names["digits"].target
    rivals = (LogisticRegression(max_iter=1000), KNeighborsClassifier(1))
    fitted = [rival.fit(rows[:50], labels[:50]) for rival in rivals]
    reached = [rival.score(rows[50:1050], labels[50:1050]) for rival in fitted]
    (text,) = re.findall(r"^It prints (.*?)\. Paths", README, re.MULTILINE)
    stated = [float(number) for number in re.findall(r"0\.\d+", text)]
    # Sums of other processors may turn a few answers.
    assert [float(capsys.readouterr().out), *reached] == pytest.approx(stated, abs=0.02)


def test_every_block_of_code_is_tried() -> None:
    assert len(PYTHON_BLOCKS) == 2


def test_the_picture_shows_what_its_text_says(address: str, tmp_path: Path) -> None:
    with Client(address) as client:
        right = draw_picture(client, tmp_path / "digits.png")

    assert (tmp_path / "digits.png").stat().st_size > 10_000
    assert "the answers to fifty other images: 49 are right](docs/images/digits.png)" in README
    assert abs(right - 49) <= 1


def test_the_demonstration_shows_what_is_served(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [replace(digits(), task_count=2), replace(scenes(), model="absent")]
    with Client(address) as client:
        demo.compare(client, few)

    printed = capsys.readouterr().out
    assert printed.count("digits, by `drawings`") == 2
    assert "photographs, by" not in printed
    assert "kshot bundle build absent" in printed
    assert all(len(line) <= demo.TABLE_COLUMNS for line in printed.splitlines())


@pytest.mark.parametrize(("subject", "shot"), [(digits, 1), (digits, 5), (scenes, 1)])
def test_readme_states_the_demonstrations_accuracies(
    subject: Callable[[], Subject], shot: int, address: str
) -> None:
    """Sums of other processors may turn a few answers. The fourth row takes longest."""
    shown = subject()
    with Client(address) as client:
        if shown.model not in client.capabilities().models:
            pytest.skip(f"{shown.model} is not built")
        outcome = measure(client, shown, shot)

    (row,) = re.findall(rf"\| {shown.title}, `{shown.model}` \| {shot} \| (.+) \|", README)
    stated = [float(cell.strip("* ").split(" ")[0]) for cell in row.split("|")[: len(CONTENDERS)]]
    measured = [100 * float(np.mean(found)) for found in outcome.accuracies.values()]
    assert measured == pytest.approx(stated, abs=1)
    assert max(stated) == stated[0]


class Served:
    """What a built-in bundle's manifest says of its own way and steps, as README writes it."""

    def __init__(self, name: str, task_count: int = 1000) -> None:
        self.manifest = load_bundle(builtin_bundle(name)).manifest
        self.way = self.manifest.evaluation[0].way
        self.steps = self.manifest.inner_loop.step_count
        self.rows = [row for row in self.manifest.evaluation if row.step_count == self.steps]
        assert {(row.task_count, row.query_count) for row in self.rows} == {(task_count, 1)}

    def __getitem__(self, asked: tuple[BatchNormMode, int]) -> str:
        mode, shot = asked
        (row,) = (row for row in self.rows if (row.batch_norm_mode, row.shot) == (mode, shot))
        return f"{100 * row.accuracy:.2f} ± {100 * row.ci95:.2f} %"


def test_readme_states_the_built_in_accuracies() -> None:
    own = Served("omniglot")
    table = [
        f"| after {own.steps} steps | 1 example of each class | 5 examples |",
        "| --- | --- | --- |",
    ]
    for mode in (
        BatchNormMode.SUPPORT,
        BatchNormMode.SUPPORT_AND_QUERY,
        BatchNormMode.TRANSDUCTIVE,
    ):
        default = " (default)" if mode is own.manifest.batch_norm.default else ""
        table.append(f"| `{mode}`{default} | {own[mode, 1]} | {own[mode, 5]} |")

    assert own.way == 5
    assert (
        "Accuracy of the paper's model, `kshot serve --bundle omniglot`, on 1,000 tasks of the "
        "paper's Omniglot test characters, which training never saw; 5 classes, one query of "
        "each; ± is half of a "
        "95 % t-interval over tasks:\n\n" + "\n".join(table) + "\n"
    ) in README
    count = own.manifest.provenance.meta_iterations
    assert f"trained for the paper's full {count:,} meta-iterations " in README


@pytest.mark.parametrize(
    ("name", "task_count"), [("omniglot-best", 1000), ("omniglot-20way", 300), ("cifar-fs", 1000)]
)
def test_readme_states_the_bundles_accuracies(name: str, task_count: int) -> None:
    served = Served(name, task_count)
    (row,) = (line for line in README.splitlines() if line.startswith(f"| [`{name}`]"))

    cells = [
        served[mode, shot]
        for shot in (1, 5)
        for mode in (BatchNormMode.SUPPORT, BatchNormMode.TRANSDUCTIVE)
    ]
    assert served.manifest.batch_norm.default is BatchNormMode.SUPPORT
    assert f"| {served.way} classes of " in row
    assert row.endswith(f", {served.steps} steps | {' | '.join(cells)} |")
    assert "They are measured like the first table, `omniglot-20way` on 300 tasks." in README


def test_every_accuracy_in_readme_is_bound() -> None:
    """The demonstration's, three modes with one and five examples, four of three bundles."""
    assert len(re.findall(r"\d ± \d", README)) == 4 * 4 + 6 + 3 * 4
