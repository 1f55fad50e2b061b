"""`kshot try`: which bundle is best for one's own pictures, and whether any is needed."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import click

from kshot.bench.plot import check_plot
from kshot.bench.report import say
from kshot.bench.serve.server_process import interrupted_by_signals, running_server
from kshot.bench.trial.contenders import Served, trivial_contenders
from kshot.bench.trial.cross_validation import Outcome, cross_validate, growth, tuned
from kshot.bench.trial.pictures import Pictures, read_pictures
from kshot.bench.trial.report import Trial, document, draw, report_of
from kshot.bundle import known_names, load_bundle, locate_bundle
from kshot.client import Client, KshotError, UnavailableError
from kshot.client.commands.options import Server, json_option, print_document, server_options
from kshot.trainer.output.plotting import figure_of, write_png
from kshot.trainer.output.progress import Progress
from kshot.trainer.rivals.rivals import RIVALS, check_rivals, one_thread

TIMEOUT_S = 300.0
SERVER_HELP = "Try the models of this running server.  [default: a new one]"
BUNDLE_HELP = (
    "Try this bundle, a folder or a name; may be repeated.  [default: all that ship or are built]"
)
PICTURES_HELP = "Use at most this many, equally many of each class."
BUDGET_HELP = (
    "Seconds of computing that scope auto may take in each adaptation.  [default: the server's]"
)
PLOT_HELP = "Where the confusion of classes is drawn."


@click.command("try")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--bundle", "names", multiple=True, metavar="PATH|NAME", help=BUNDLE_HELP)
@server_options(None, SERVER_HELP)
@click.option(
    "--pictures",
    "most",
    type=click.IntRange(min=4),
    default=200,
    show_default=True,
    help=PICTURES_HELP,
)
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    default="kshot-try.png",
    show_default=True,
    metavar="FILE.png",
    help=PLOT_HELP,
)
@click.option(
    "--time-budget",
    type=click.FloatRange(min=0, min_open=True, max=600),
    metavar="SECONDS",
    help=BUDGET_HELP,
)
@json_option
def command(
    folder: Path,
    names: Sequence[str],
    server: Server | None,
    most: int,
    plot: Path,
    time_budget: float | None,
    as_json: bool,
) -> None:
    """Compare bundles with trivial classifiers on FOLDER, one folder of images for each class.

    All are cross-validated on the same folds; trivial classifiers are tuned by them, too. Prints
    accuracies with 95 % intervals, the surest mistakes, and the command to run next.
    """
    if server and names:
        raise click.UsageError("--bundle cannot be combined with --server")
    check_plot(plot)
    check_rivals()
    pictures = read_pictures(folder, most)
    with ExitStack() as stack:
        stack.enter_context(interrupted_by_signals())
        stack.enter_context(one_thread())
        bundles = {} if server else _bundles(names)
        place = server or stack.enter_context(_own_server(list(bundles.values())))
        client = stack.enter_context(place.client(TIMEOUT_S))
        outcomes = _outcomes(client, pictures, time_budget)
        trial = Trial(
            folder, pictures, outcomes, {}, server.address if server else "", bundles, time_budget
        )
        grown = {one.contender.title: one for one in (trial.best_bundle, trial.best_rival)}
        say("measuring fewer examples per class")
        growths = {title: growth(one, pictures) for title, one in grown.items()}
    trial = replace(trial, growths=growths)
    write_png(plot, figure_of(lambda figure: draw(figure, trial), width=11.0, height=5.0))
    say(f"{plot}: the confusion of classes")
    if as_json:
        print_document(document(trial))
    else:
        report_of(trial).print()


def _bundles(names: Sequence[str]) -> dict[str, str]:
    """Return what each model is called on the command line; raises `BundleError`."""
    paths = {name: locate_bundle(name) for name in names or known_names()}
    return {load_bundle(path).manifest.name: name for name, path in paths.items()}


@contextmanager
def _own_server(bundles: Sequence[str]) -> Iterator[Server]:
    """Run a server that compiles nothing: its few calls are over before that would pay."""
    first, *others = bundles
    flags = [word for name in others for word in ("--bundle", name)]
    say(f"starting a server of {', '.join(bundles)}")
    with running_server(Path(first), flags=flags, compiling=False) as server:
        yield server.endpoint


def _outcomes(client: Client, pictures: Pictures, time_budget: float | None) -> list[Outcome]:
    """Cross-validate all contenders, the best first.

    A model that refuses the task is left out, with its reason. Raises `ClickException` when none
    is left, and `KshotError` when the server is gone.
    """
    models = client.capabilities().models.values()
    folds, found = pictures.fold_count, list[Outcome]()
    total = folds * (len(models) + len(RIVALS))
    with Progress("cross-validating", "folds") as progress:
        done = 0

        def tick(title: str = "") -> None:
            nonlocal done
            done += 1
            progress.update(done, total, title)

        for model in models:
            try:
                served = Served(client, model, pictures, time_budget)
                found.append(cross_validate(served, pictures, partial(tick, model.model)))
            except UnavailableError:
                raise
            except KshotError as error:
                say(f"{model.model}: left out; {error}")
        if not found:
            raise click.ClickException("no served model takes this task; see the reasons above")
        for settings in trivial_contenders(pictures):
            found.append(tuned(settings, pictures))
            done += folds - 1
            tick(settings[0].title)
    return sorted(found, key=lambda one: one.place)
