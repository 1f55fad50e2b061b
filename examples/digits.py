"""Adapt to real handwritten digits through a running server: `make demo`.

A server starts on the built-in bundle `drawings`, which has seen handwritten letters of many
alphabets and no digit of this data set. Each task takes five digits with five examples each,
adapts to them in one call, and classifies all remaining images of those digits.
`--picture FILE` draws one task, with ten queries of each digit, instead of the table.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.stats import binomtest, t
from sklearn.datasets import load_digits

from kshot.client import Client

WAY, SHOT, TASK_COUNT = 5, 5, 6
PICTURED_SEED, DRAWN_PER_DIGIT = 4, 10  # of the six tasks the one nearest to their mean
IMAGES_PER_REQUEST = 100
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class TaskReport:
    """One task's outcome: its digits, correct and all answers, latencies in milliseconds."""

    digits: tuple[int, ...]
    correct_count: int
    query_count: int
    adapt_ms: float
    predict_ms: tuple[float, ...]


def read_digits() -> tuple[np.ndarray, np.ndarray]:
    """Return scikit-learn's digits as they come, and their labels.

    They are uint8 (1797, 8, 8), ink bright on dark and blurred; the server prepares them.
    """
    digits = load_digits()
    return np.rint(digits.images * (255 / 16)).astype(np.uint8), digits.target


@contextlib.contextmanager
def running_server() -> Iterator[str]:
    """Start `kshot serve` on a free port, yield its address, stop it and check its exit code."""
    with tempfile.TemporaryDirectory(prefix="kshot-digits-") as folder:
        log = Path(folder) / "server.log"
        command = [sys.executable, "-m", "kshot", "serve", "--listen", "127.0.0.1:0"]
        command += ["--store", str(Path(folder) / "store")]
        with (
            log.open("w") as errors,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server,
        ):
            try:
                yield wait_until_ready(server, log)
            finally:
                code = stop(server)
        if code != 0:
            raise SystemExit(f"the server ended with exit code {code}:\n{log.read_text()[-2000:]}")


def stop(server: subprocess.Popen[str]) -> int:
    """Stop a server, by force when it does not end in time; return its exit code."""
    server.send_signal(signal.SIGTERM)
    try:
        return server.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.kill()
        return server.wait()


def wait_until_ready(server: subprocess.Popen[str], log: Path) -> str:
    """Read the server's events until it is ready; return its address."""
    assert server.stdout is not None  # noqa: S101 -- Popen was told to make a pipe
    timer = threading.Timer(START_TIMEOUT_S, server.kill)
    timer.start()
    try:
        for line in server.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                return str(event["grpc"])
    finally:
        timer.cancel()
    raise SystemExit(f"the server did not become ready:\n{log.read_text()[-2000:]}")


def draw_task(labels: np.ndarray, seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return five random digits and the indices of each one's images, in random order."""
    generator = np.random.default_rng(seed)
    digits = np.sort(generator.choice(10, WAY, replace=False))
    return digits, [generator.permutation(np.flatnonzero(labels == digit)) for digit in digits]


def run_task(client: Client, images: np.ndarray, labels: np.ndarray, seed: int) -> TaskReport:
    """Adapt to five random digits, five examples each, and classify all other images of them."""
    digits, of_digit = draw_task(labels, seed)
    support = np.concatenate([indices[:SHOT] for indices in of_digit])
    query = np.concatenate([indices[SHOT:] for indices in of_digit])

    started = time.perf_counter()
    adapted = client.adapt(images[support], labels[support].tolist(), model="drawings", seed=seed)
    adapt_ms = 1e3 * (time.perf_counter() - started)

    correct_count, predict_ms = 0, []
    for first in range(0, len(query), IMAGES_PER_REQUEST):
        asked = query[first : first + IMAGES_PER_REQUEST]
        started = time.perf_counter()
        result = adapted.predict(images[asked])
        predict_ms.append(1e3 * (time.perf_counter() - started))
        correct_count += int(np.sum(result.labels == labels[asked]))
    adapted.delete()
    names = tuple(int(digit) for digit in digits)
    return TaskReport(names, correct_count, len(query), adapt_ms, tuple(predict_ms))


def print_table(reports: list[TaskReport], total_s: float) -> None:
    """Print a row for each task and one for all of them."""
    table = Table(title=f"{WAY}-way {SHOT}-shot: scikit-learn's handwritten digits")
    for heading in ("digits", "images", "accuracy, 95 % interval", "adapt, ms", "predict, ms"):
        table.add_column(heading, justify="left" if heading == "digits" else "right")
    for report in reports:
        interval = binomtest(report.correct_count, report.query_count).proportion_ci(
            method="wilson"
        )
        table.add_row(
            " ".join(map(str, report.digits)),
            str(report.query_count),
            f"{100 * report.correct_count / report.query_count:.1f} % "
            f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]",
            f"{report.adapt_ms:.0f}",
            f"{np.median(report.predict_ms):.1f}",
        )
    accuracies = [report.correct_count / report.query_count for report in reports]
    mean = float(np.mean(accuracies))
    low, high = t.interval(
        0.95, len(reports) - 1, mean, np.std(accuracies, ddof=1) / np.sqrt(len(reports))
    )
    table.add_section()
    table.add_row(
        f"{len(reports)} tasks",
        str(sum(report.query_count for report in reports)),
        f"{100 * mean:.1f} % [{100 * low:.1f}, {100 * min(high, 1.0):.1f}]",
        f"{np.median([report.adapt_ms for report in reports]):.0f}",
        f"{np.median([ms for report in reports for ms in report.predict_ms]):.1f}",
    )
    console = Console()
    console.print(table)
    console.print(
        f"Accuracy: over all images but the {WAY * SHOT} examples. Its interval: Wilson's for\n"
        "a task, Student's t over the tasks' accuracies for all of them.\n"
        f"Latencies: medians of whole calls; predict sends {IMAGES_PER_REQUEST} images at once.\n"
        f"Took {total_s:.1f} s, with the server's start and stop.",
        highlight=False,
    )


def draw_picture(client: Client, images: np.ndarray, labels: np.ndarray, path: Path) -> int:
    """Draw one task's examples and some of its answers; return how many answers are right."""
    from matplotlib.figure import Figure

    _, of_digit = draw_task(labels, PICTURED_SEED)
    support = np.concatenate([indices[:SHOT] for indices in of_digit])
    query = np.concatenate([indices[SHOT : SHOT + DRAWN_PER_DIGIT] for indices in of_digit])
    adapted = client.adapt(
        images[support], labels[support].tolist(), model="drawings", seed=PICTURED_SEED
    )
    result = adapted.predict(images[query])
    adapted.delete()
    right = result.labels == labels[query]

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    columns = figure.add_gridspec(1, 2, width_ratios=[SHOT, DRAWN_PER_DIGIT + 1])
    examples, answers = figure.add_subfigure(columns[0]), figure.add_subfigure(columns[1])
    examples.suptitle(f"{SHOT} examples of each class")
    answers.suptitle(f"other images and their answers: {right.sum()} of {len(query)} right")
    for axes, index in zip(examples.subplots(WAY, SHOT).flat, support, strict=True):
        axes.imshow(images[index], cmap="gray_r", vmin=0, vmax=255)
        axes.set_axis_off()
    drawn = zip(answers.subplots(WAY, DRAWN_PER_DIGIT).flat, query, result.labels, strict=True)
    for axes, index, answer in drawn:
        axes.imshow(images[index], cmap="gray_r", vmin=0, vmax=255)
        correct = answer == labels[index]
        axes.set_title(str(answer), color="green" if correct else "red", fontsize=9, pad=2)
        axes.set_axis_off()
    figure.savefig(path, dpi=100, metadata={"Software": None})
    return int(right.sum())


def main(arguments: list[str] | None = None) -> int:
    """Run the tasks and print the table, or draw the picture."""
    parser = argparse.ArgumentParser(description="Adapt to handwritten digits through a server.")
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw one task to this file")
    picture = parser.parse_args(arguments).picture
    started = time.perf_counter()
    images, labels = read_digits()
    with running_server() as address, Client(address) as client:
        if picture is not None:
            draw_picture(client, images, labels, picture)
            return 0
        reports = [run_task(client, images, labels, seed) for seed in range(TASK_COUNT)]
    print_table(reports, time.perf_counter() - started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
