"""Train every recipe for a short length and see whether it adapts better than what it starts from.

python benchmarks/short_recipes.py [--only NAME,NAME] [--scale 1.0] [--data DIR] [--out FILE]

Each is trained by its one command, `kshot train`; its start and its end then adapt to the same test
tasks, and the row says how much better the end is, with a paired 95 % interval. Data sets that are
not in the data folder are replaced by generated images of their form. The JSON file is written
after every recipe, and recipes that it has are not run again.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from kshot.bench.environment import environment
from kshot.bench.report import say
from kshot.bench.short_recipes import ShortData, run_short
from kshot.bench.short_runs import SHORT_RUNS, data_for
from kshot.trainer.recipe.files import load_recipe
from kshot.trainer.recipe.recipe import Recipe


@click.command()
@click.option("--only", default="", help="Recipes, separated by commas.  [default: all]")
@click.option("--scale", default=1.0, help="Multiply all numbers of meta-iterations.")
@click.option("--data", "data_folder", type=click.Path(path_type=Path), envvar="KSHOT_DATA")
@click.option("--out", default="short-recipes.json", type=click.Path(path_type=Path))
@click.option("--work", type=click.Path(path_type=Path), help="Folder for generated images.")
def main(only: str, scale: float, data_folder: Path | None, out: Path, work: Path | None) -> None:
    """Run the recipes and print the table."""
    names = only.split(",") if only else list(SHORT_RUNS)
    for name in names:
        if name not in SHORT_RUNS:
            raise click.UsageError(f"recipe is {name!r}, wanted one of: {', '.join(SHORT_RUNS)}")
    torch.set_num_threads(1)
    rows = json.loads(out.read_text())["rows"] if out.exists() else []
    with tempfile.TemporaryDirectory() as temporary:
        folder = work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        # Images that were generated leave nothing in the cache of the user's data sets.
        os.environ["XDG_CACHE_HOME"] = str((folder / "cache").resolve())
        for name in names:
            if any(row["recipe"] == name for row in rows):
                continue
            run, recipe = SHORT_RUNS[name].scaled(scale), load_recipe(name)
            data = ShortData(folder, generated=False)
            if isinstance(recipe, Recipe):
                data = data_for(recipe, data_folder, folder, say)
            say(f"training {name} for {run.meta_iterations} meta-iterations")
            with tempfile.TemporaryDirectory() as trained:
                row = run_short(run, data, Path(trained) / name, train)
            made_with = environment()
            # Rows of other days may be of other commits.
            rows.append({**row, "commit": made_with.pop("commit")})
            document = {"environment": made_with, "rows": rows}
            out.write_text(json.dumps(document, indent=2) + "\n")
            say(_line(rows[-1]))
    failed = [str(row["recipe"]) for row in rows if not row["improved"]]
    click.echo(f"{len(rows) - len(failed)} of {len(rows)} recipes improve")
    if failed:
        click.echo("without improvement: " + ", ".join(failed))


def train(arguments: Sequence[str]) -> None:
    """Run `kshot` in a process of its own."""
    subprocess.run([sys.executable, "-m", "kshot", *arguments], check=True)  # noqa: S603 -- ours


def _line(row: dict[str, object]) -> str:
    return (
        f"{row['recipe']}: {row['measure']} {row['start']:.3f} -> {row['end']:.3f}, better by "
        f"{row['improvement']:.3f} ± {row['improvement_ci95']:.3f} in {row['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
