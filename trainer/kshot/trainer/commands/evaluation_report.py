"""The output of `kshot evaluate`, as JSON and as text."""

from dataclasses import asdict

from kshot.bundle import Scope
from kshot.trainer.commands.evaluation_session import Session
from kshot.trainer.evaluate.scores import EvaluationResult
from kshot.trainer.statistics import Interval


def result_document(session: Session, result: EvaluationResult) -> dict[str, object]:
    """Lay out a result as JSON; accuracies in 0..1, `ci95` is a half width."""
    settings = session.settings
    document: dict[str, object] = {
        "accuracy": result.accuracy,
        "ci95": result.ci95,
        "ci_method": result.ci_method,
        "ece": result.ece,
        "tasks": result.task_count,
        "step_count": result.step_count,
        "ms_per_task": result.ms_per_task,
        "nll": result.nll,
        "way": settings.way,
        "shot": settings.shot,
        "queries": settings.query_count,
        "queries_per_task": result.query_count,
        "seed": settings.seed,
        "batch_norm_mode": settings.batch_norm_mode,
        "temperature": settings.temperature(session.bundle.manifest),
        "baseline": settings.baseline,
        **asdict(settings.flaws),
        "diverged": result.diverged_count,
        "episodes_digest": result.episodes_digest,
    }
    if result.unknown is not None:
        document["unknown"] = asdict(result.unknown)
    if session.request.per_task:
        document["correct_counts"] = result.correct_counts
    return document


def result_text(session: Session, result: EvaluationResult) -> str:
    """Lay out a result as text."""
    settings, manifest = session.settings, session.bundle.manifest
    temperature = settings.temperature(manifest)
    steps = f"{result.step_count} step{'' if result.step_count == 1 else 's'}"
    baseline = f"baseline {settings.baseline}, " if settings.baseline else ""
    divided = "" if temperature == 1 else f"temperature {temperature:.3g}, "
    said = [
        f"{settings.way}-way {settings.shot}-shot, {baseline}{steps}, "
        f"{settings.batch_norm_mode}: accuracy {result.accuracy:.2%} ± {result.ci95:.2%} "
        f"({result.ci_method}, {result.task_count} tasks), ECE {result.ece:.3f}, "
        f"NLL {result.nll:.3f}, {divided}{result.ms_per_task:.0f} ms per task"
    ]
    if settings.baseline is None and (settings.scope or manifest.scope.default) is Scope.AUTO:
        said.append("scope auto is measured as head: the encoder's last layers do not adapt here")
    flaws = settings.flaws
    if flaws.wrong_labels or flaws.imbalance:
        parts = ["uneven shots"] if flaws.imbalance else []
        if flaws.wrong_labels:
            parts.insert(0, f"{flaws.wrong_labels:.0%} of the support labels wrong")
        said.append(f"support flawed: {', '.join(parts)}")
    if result.unknown is not None:
        found = result.unknown
        said.append(
            f"unknown classes by {found.score}: AUROC {found.auroc:.4f} ± {found.ci95:.4f} "
            f"({found.ci_method}), {found.fpr_at_95_tpr:.2%} taken for known when 95 % of the "
            f"known are ({found.known_count} known, {found.unknown_count} unknown queries)"
        )
    if result.diverged_count:
        said.append(
            f"{result.diverged_count} of {result.task_count} tasks diverged and count as wrong"
        )
    return "\n".join(said)


def difference_text(difference: Interval, task_count: int, other: str) -> str:
    """Lay out a paired difference to the variant `other` as text."""
    return (
        f"{100 * difference.mean:+.2f} points ± {100 * difference.half_width:.2f} to {other} "
        f"on the same tasks ({difference.method}, {task_count} tasks)"
    )
