"""The model card of a calibrated copy: its bundle's, with what calibration adds and changes."""

from collections.abc import Sequence

from kshot.bundle import Calibration, Manifest
from kshot.trainer.bundling.calibration import TemperatureFit
from kshot.trainer.bundling.card import (
    UNCALIBRATED,
    accuracy_section,
    calibration_limit,
    counted,
    evaluate_command,
)
from kshot.trainer.evaluate.accuracy_table import TABLE_SEED

__all__ = ["calibrate_command", "calibrated_card", "calibration_words"]

ACCURACY, CALIBRATION, AGAIN = "## Accuracy", "## Calibration", "## Again"
OUT, COPY = "OUT", "CALIBRATED"


def calibrated_card(card: str, manifest: Manifest, fits: Sequence[TemperatureFit]) -> str:
    """Write the card of a copy from that of the bundle that was calibrated.

    ``manifest`` is the copy's; ``fits`` are those of its rules. The table of accuracies is the
    manifest's, a section tells of the temperatures, and the commands and limits follow; all else
    stays as it was, whoever wrote it.
    """
    sections = _sections(card)
    headings = [section[0] for section in sections]
    place = headings.index(ACCURACY) if ACCURACY in headings else 1
    added = [accuracy_section(manifest), _calibration(manifest, fits)]
    if manifest.evaluation and AGAIN not in headings:
        added.append(_again(manifest))
    sections[place : place + (ACCURACY in headings)] = added
    lines = "\n\n".join("\n".join(section) for section in sections).strip("\n").split("\n")
    return "\n".join(_mended(line, manifest) for line in lines) + "\n"


def _sections(card: str) -> list[list[str]]:
    """Take a card apart before each heading `## ...`, without the empty lines between sections."""
    parts = f"\n{card.strip()}".replace("\r\n", "\n").split("\n## ")
    texts = [parts[0].strip("\n"), *(f"## {part}".strip("\n") for part in parts[1:])]
    return [text.split("\n") for text in texts]


def _mended(line: str, manifest: Manifest) -> str:
    """Return a line as it is true of the copy."""
    if line == UNCALIBRATED:
        return calibration_limit(manifest)
    if line.startswith("    kshot evaluate ") and manifest.evaluation:
        return _evaluation(manifest)
    return line


def _again(manifest: Manifest) -> list[str]:
    said = "measures the table's first row again; each row has its own values."
    return [AGAIN, "", _evaluation(manifest), "", said]


def _evaluation(manifest: Manifest) -> str:
    return "    " + evaluate_command(manifest, TABLE_SEED, COPY)


def calibration_words(manifest: Manifest) -> str:
    """Say how a calibrated bundle's temperatures go, and what they were fitted on.

    Raises ``ValueError`` for a manifest without a calibration.
    """
    calibration, inner = _calibration_of(manifest), manifest.inner_loop
    queries = counted(calibration.query_count, "query", "queries")
    return (
        "Logits are divided by a temperature before the softmax (Guo et al. 2017). It goes by the "
        "batch-norm mode and the examples per class: between two rows of a mode its logarithm is "
        "linear in that of their number, outside the nearest row counts. They are those of the "
        f"least negative log-likelihood on {calibration.task_count:,} {calibration.way}-way tasks "
        f"for each number of examples, with {queries} per class, from the part "
        f"`{calibration.part}` of the data (digest of its images `{calibration.data_digest}`), "
        f"seed {calibration.seed}, adapted by this bundle's defaults: {calibration.step_count} "
        f"steps, preconditioner `{inner.preconditioner}`, head `{manifest.head.default}`, scope "
        f"`{manifest.scope.default}`. ECE (15 bins) and NLL (nats) of these very answers are:"
    )


def calibrate_command(manifest: Manifest) -> str:
    """Return the command that fits a bundle's temperatures again; raises as the words do."""
    calibration = _calibration_of(manifest)
    shots = sorted({rule.shot for rule in calibration.rules})
    options = {
        "split": calibration.part,
        "shots": ",".join(f"{shot:g}" for shot in shots),
        "tasks": calibration.task_count,
        "queries": calibration.query_count,
        "seed": calibration.seed,
        "step-count": calibration.step_count,
        "batch-norm-mode": manifest.batch_norm.default,
        "preconditioner": manifest.inner_loop.preconditioner,
        "head": manifest.head.default,
    }
    words = " ".join(f"--{name} {value}" for name, value in options.items())
    folder = f"{OUT}/{manifest.name}/{manifest.version}"
    return f"kshot calibrate {folder} --out {COPY} --data DATA {words}"


def _calibration_of(manifest: Manifest) -> Calibration:
    if manifest.calibration is None:
        raise ValueError(f"manifest of {manifest.name} has no calibration, wanted one")
    return manifest.calibration


def _calibration(manifest: Manifest, fits: Sequence[TemperatureFit]) -> list[str]:
    return [
        CALIBRATION,
        "",
        calibration_words(manifest),
        "",
        "| batch-norm mode | examples per class | temperature | ECE before | ECE after "
        "| NLL before | NLL after |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *(_row(fit) for fit in fits),
        "",
        "    " + calibrate_command(manifest),
        "",
        f"fits them again, to the bundle that training writes to {OUT}.",
    ]


def _row(fit: TemperatureFit) -> str:
    rule = fit.rule
    return (
        f"| {rule.batch_norm_mode} | {rule.shot:g} | {rule.temperature:.4g} "
        f"| {fit.uncalibrated_ece:.2%} | {fit.ece:.2%} | {fit.uncalibrated_nll:.4f} "
        f"| {fit.nll:.4f} |"
    )
