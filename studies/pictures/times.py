"""Milliseconds of contenders: adapting to a task as sent, and answering one picture."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median

from kshot.bench.serve.encoder import measure_encoder
from kshot.trainer.errors import DataError
from studies.common.results import provenance
from studies.common.runner import SEED, Options, say
from studies.pictures.contenders import Contender, Kind
from studies.pictures.gathered import add_rows
from studies.pictures.measure import Trial, left_out, read_set_rows
from studies.pictures.sets import PictureSet, Task
from studies.pictures.solvers import Served, describing, served

PHOTOS, TIMES, CALLERS = "photos", "times", "callers"
CALLER_COUNT, SECONDS = 64, 20.0
COMMAND = "python studies/pictures/study.py --data DATA --times"
TASKS = 10


@dataclass(frozen=True)
class Times:
    """Medians over tasks, in milliseconds."""

    adapt_ms: float
    predict_ms: float


# Adapts to a task of a set, with what answers a picture.
Adapting = Callable[[PictureSet, Task], Times]


@contextmanager
def timing(contender: Contender) -> Iterator[Adapting]:
    """Yield what times a task: bundles behind a server, rivals with their features."""
    if contender.kind == Kind.SERVED:
        with served(contender, compiling=True) as serve:
            yield lambda pictures, task: _served(serve(pictures), task)
    else:
        describe, learner = describing(contender, kept=False)

        def work(pictures: PictureSet, task: Task) -> Times:
            support, query = pictures.some(task.support), pictures.some(task.queries[:1])
            started = time.perf_counter()
            answer = learner.fit(describe(support), task.support_labels)
            adapted = time.perf_counter()
            answer(describe(query))
            return Times(1e3 * (adapted - started), 1e3 * (time.perf_counter() - adapted))

        yield work


def _served(server: Served, task: Task) -> Times:
    started = time.perf_counter()
    with server.adapted(task) as model:
        adapted = time.perf_counter()
        server.ask(model, task.queries[:1])
        answered = time.perf_counter()
    return Times(1e3 * (adapted - started), 1e3 * (answered - adapted))


def measure_times(pictures: PictureSet, tasks: Sequence[Task], work: Adapting) -> Times:
    """Time tasks after one that is not counted."""
    found = [work(pictures, task) for task in [tasks[0], *tasks]][1:]
    return Times(
        round(median(one.adapt_ms for one in found), 2),
        round(median(one.predict_ms for one in found), 3),
    )


def timed_rows() -> Sequence[str]:
    """Return the names of the rows that are timed."""
    return [*read_set_rows(table="pictures"), "digits"]


def run_times(asked: Sequence[Trial], contenders: Sequence[Contender], options: Options) -> None:
    """Time contenders on a few tasks of each trial, and write the times."""
    made_with = provenance(COMMAND, [SEED], options.device)
    for contender in contenders:
        name = contender.name
        own = [trial for trial in asked if name in trial.row.contenders]
        if not own or (contender.networks and len(contender.networks) == 1):
            continue  # a part of an encoder has no time of its own
        rows = []
        try:
            with timing(contender) as adapting:
                for trial in own:
                    tasks = trial.tasks[: options.task_count or TASKS]
                    with left_out(f"{trial.name}: {name}"):
                        times = measure_times(trial.pictures, tasks, adapting)
                        rows.append({"trial": trial.name, "contender": name, **asdict(times)})
                        say(f"{trial.name}: {name}: {times.adapt_ms} + {times.predict_ms} ms")
        except DataError as error:
            say(f"left out; {error}")
        if rows:
            add_rows(TIMES, made_with, rows, options.out)
    for contender in contenders:
        if contender.name == PHOTOS:
            run_callers(contender, options)


def run_callers(contender: Contender, options: Options) -> None:
    """Measure many callers with adapted models of their own, and write their rates."""
    made_with = provenance(COMMAND, [SEED], options.device)
    try:
        (bundle,) = contender.bundles()
    except DataError as error:
        say(f"left out; {error}")
        return
    found = measure_encoder(bundle, CALLER_COUNT, SECONDS)
    row = {
        "trial": f"{found.callers} callers",
        "contender": contender.name,
        "per_second": round(found.models_per_second, 2),
        **{name: round(ratio, 4) for name, ratio in found.ratios.items()},
        "predict_ms": round(found.predict_ms.p50, 2),
        "encoder_ms": round(found.encoder_ms.p50, 2),
    }
    add_rows(CALLERS, made_with, [row], options.out)
