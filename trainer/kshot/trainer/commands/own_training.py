"""`kshot train --folder`: a training that suits a user's folder, and its accuracy."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch

from kshot.bundle import (
    Bundle,
    BundleError,
    Head,
    Ink,
    Manifest,
    known_names,
    load_bundle,
    locate_bundle,
)
from kshot.bundle.field_types import NAME_PATTERN
from kshot.learner import Initialization
from kshot.trainer.bundling.card import counted
from kshot.trainer.bundling.ridge_bundle import (
    FEWEST_QUERIES,
    RULE_SHOTS,
    chosen_settings,
    chosen_shots,
    manifest_with,
    pack_ridge,
    rules_digest,
    shots_text,
)
from kshot.trainer.commands.data_parts import read_part
from kshot.trainer.commands.options import check_writable, holds_files
from kshot.trainer.datasets.class_folders import list_class_folders
from kshot.trainer.datasets.dataset import ImageDataset
from kshot.trainer.datasets.encoded_images import encoded_pixels
from kshot.trainer.datasets.own_folder import SPLIT, OwnFolder, files_on_both_sides, look_at
from kshot.trainer.errors import DataError, TrainingError
from kshot.trainer.evaluate.accuracy_table import Plan, measure_plan
from kshot.trainer.evaluate.contest import (
    Result,
    bundle_result,
    contest_tasks,
    rival_results,
)
from kshot.trainer.evaluate.evaluator import Evaluator
from kshot.trainer.evaluate.settings import EvaluationSettings
from kshot.trainer.output.contest_table import Contest
from kshot.trainer.output.progress import Progress
from kshot.trainer.recipe.own_drawings import own_drawings
from kshot.trainer.recipe.recipe import Data
from kshot.trainer.rivals.rivals import check_rivals
from kshot.trainer.tasks.episode_file import TaskShape

WAY, SHOTS = 5, (1, 5)
SHOWN_CLASSES, SHOWN_FILES = 30, 3


@dataclass(frozen=True)
class OwnTraining:
    """A folder, the bundle that its training starts from, and the name of the result."""

    folder: OwnFolder
    start: Bundle
    start_name: str
    name: str

    @property
    def data(self) -> Data:
        """Return the folder as recipes name it, below `data_folder`."""
        return Data("folder", SPLIT, rotations=False, folder=self.folder.path.name)

    @property
    def data_folder(self) -> Path:
        """Return the folder that the data's is in."""
        return self.folder.path.parent

    @property
    def by_gradients(self) -> bool:
        """Tell whether the network is trained; otherwise the rules of its head are chosen."""
        return self.start.manifest.head.default is not Head.RIDGE

    @property
    def recipe_settings(self) -> tuple[str, ...]:
        """Return what makes the recipe `drawings` one for the folder."""
        train, test = (
            (len(self.folder.split[part]), self.folder.fewest(part)) for part in ("train", "test")
        )
        return own_drawings(self.folder.path.name, SPLIT, self.name, train, test)

    def tasks(self, test: ImageDataset) -> Sequence[TaskShape]:
        """Return the tasks that the results are compared on."""
        return contest_tasks(test, min(WAY, test.class_count), SHOTS)

    def files(self) -> Sequence[Path]:
        """List the files of the test classes, in the order of their data set."""
        listed = list_class_folders(self.folder.path)
        return [
            self.folder.path / file for name in self.folder.split["test"] for file in listed[name]
        ]


def plan_training(folder: Path, start_name: str | None) -> OwnTraining:
    """Look at a folder and choose what its training starts from; say both.

    Raises `DataError` for a folder that cannot be trained on, and `UsageError` for a bundle that
    cannot be its start.
    """
    own = look_at(folder)
    for remark in own.remarks:
        say(f"warning: {remark}")
    chosen = start_name or ("drawings" if own.drawings else "photos")
    try:
        start = load_bundle(locate_bundle(chosen))
    except BundleError as error:
        if start_name is None and not own.drawings:
            raise click.ClickException(
                f"{folder}: expected bundle photos, to start from for pictures other than "
                f"drawings: {error}; or name another bundle by --start"
            ) from error
        raise click.UsageError(f"--start: {error}") from error
    steps = start.manifest.input.preprocessing
    if start.manifest.ridge is None and not any(isinstance(step, Ink) for step in steps):
        raise click.UsageError(
            f"--start: with --folder expected a bundle with head ridge or with the step ink, got "
            f"{chosen}; other starts need a recipe"
        )
    counts, held_out = own.counts, own.split["test"]
    kind = "drawings" if own.drawings else "pictures other than drawings"
    say(f"{folder}: {len(counts)} classes, {sum(counts.values()):,} pictures: {kind}")
    names = ", ".join(held_out[:SHOWN_CLASSES]) + _more(len(held_out) - SHOWN_CLASSES)
    say(f"held out, to measure on: {names}")
    if repeated := files_on_both_sides(own):
        shown = ", ".join(f"{first} and {second}" for first, second in repeated[:SHOWN_FILES])
        say(
            f"warning: held-out classes share {counted(len(repeated), 'file')} with training "
            f"classes, which raises the accuracy: {shown}{_more(len(repeated) - SHOWN_FILES)}; "
            "remove one of each"
        )
    say(f"starting from {chosen}, training on the other {len(own.split['train'])} classes")
    return OwnTraining(own, start, chosen, _bundle_name(own.path.name))


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""


def check_apart(folder: Path, out: Path) -> None:
    """Raise `UsageError` for results that would be written among the classes of a folder."""
    folder = folder.resolve()
    if (out.resolve() / _bundle_name(folder.name)).is_relative_to(folder):
        raise click.UsageError(
            f"--out: expected a directory outside --folder, got {out}: its results would look like "
            "classes; name another directory"
        )


def _bundle_name(folder_name: str) -> str:
    """Make a bundle's name of a folder's; that of a bundle that ships or is built is changed."""
    name = re.sub("[^a-z0-9]+", "-", folder_name.lower()).strip("-")[:60]
    return name if re.fullmatch(NAME_PATTERN, name) and name not in known_names() else f"own-{name}"


def choose_rules(own: OwnTraining, out: Path, device: torch.device) -> Path:
    """Choose the rules of the start's head, and write `out/NAME/1`; return that folder.

    What this training has written before is returned as it is. Raises `TrainingError` for the
    bundle of another one, and `DataError` where a training class has too few pictures.
    """
    start, spec = own.start, own.start.manifest.input
    _say_shots(own)
    train, test = (read_part(own.data, own.data_folder, part, spec) for part in ("train", "test"))
    folder = out / own.name / "1"
    if folder.exists():
        if not _made_by(load_bundle(folder).manifest, start, train):
            raise TrainingError(f"{folder} is the bundle of another training; name another --out")
        return folder
    if holds_files(out):
        raise TrainingError(
            f"--resume: expected {folder}, or an empty directory, got other files in {out}; name "
            "another --out"
        )
    check_writable("--out", folder.parent)
    with Progress("encoding", "images") as progress:
        pixels = encoded_pixels(train, start, device, progress.update)
        tested = encoded_pixels(test, start, device, progress.update)
    with Progress("choosing the rules", "numbers of examples") as progress:
        settings = chosen_settings(start, train, pixels, progress.update)
    manifest = manifest_with(start, own.name, own.data, train, settings)
    initialization = replace(Initialization.from_bundle(start, device), ridge=settings)
    evaluator = Evaluator(initialization, manifest, test, pixels=tested)
    with Progress("measuring the bundle", "tasks") as progress:
        rows = measure_plan(_plan(own, test, manifest), evaluator, progress.update)
    manifest = replace(manifest, evaluation=rows)
    words = ["kshot", "train", "--folder", own.folder.path.name, "--start", own.start_name]
    return pack_ridge(out, start, manifest, train, shlex.join([*words, "--out", "OUT"])).path


def _made_by(found: Manifest, start: Bundle, train: ImageDataset) -> bool:
    """Tell whether rules were chosen from this very start by these images and classes."""
    made, rules = found.provenance, found.ridge
    return rules is not None and (made.recipe_digest, made.data_digest, made.split_digest) == (
        rules_digest(start, rules),
        train.digest,
        train.split_digest,
    )


def _say_shots(own: OwnTraining) -> None:
    """Say for which numbers of examples rules are chosen; raise `DataError` for none."""
    fewest = own.folder.fewest("train")
    shots = chosen_shots(fewest)
    if not shots:
        name = min(own.folder.split["train"], key=own.folder.counts.__getitem__)
        raise DataError(
            f"class folder {own.folder.path / name}: expected at least {1 + FEWEST_QUERIES} "
            f"pictures, to choose rules by, got {fewest}; add pictures, remove the class, or adapt "
            f"{own.start_name} as it is: kshot try {own.folder.path}"
        )
    rest = "" if shots == RULE_SHOTS else f"; for more, the rules of {own.start_name} stay"
    say(f"choosing rules for {shots_text(fewest)}{rest}")


def _plan(own: OwnTraining, test: ImageDataset, manifest: Manifest) -> Plan:
    mode, steps = manifest.batch_norm.default, manifest.inner_loop.step_count
    return {
        EvaluationSettings(of.way, of.shot, of.query_count, of.task_count, mode): [steps]
        for of in own.tasks(test)
    }


def compare(own: OwnTraining, folder: Path, device: torch.device) -> Contest:
    """Let the trained bundle, its start and trivial classifiers solve tasks of test classes."""
    trained = load_bundle(folder)
    spec = trained.manifest.input
    test = read_part(own.data, own.data_folder, "test", spec)
    tasks = own.tasks(test)
    results: list[Result] = []
    for title, bundle in ((own.name, trained), (own.start_name, own.start)):
        evaluator = Evaluator.of_bundle(bundle, test, device)
        with Progress(f"measuring {title}", "tasks") as progress:
            results.append(bundle_result(title, evaluator, tasks, progress.update))
    rivals: Sequence[Result] = ()
    try:
        check_rivals()
        with Progress("looking at pictures for trivial classifiers", "pictures") as progress:
            rivals = rival_results(test, own.files(), tasks, progress.update)
    except TrainingError as error:
        say(f"without trivial classifiers: {error}")
    way, count = tasks[0].way, tasks[0].task_count
    ours, starts = results
    return Contest(ours, starts, rivals, test.class_count, way, count, folder, own.start_name)


def say(sentence: str) -> None:
    """Say something that is no result."""
    click.echo(sentence, err=True)
