"""What `kshot calibrate` prints: the fits of a calibrated copy, as JSON and for people."""

from collections.abc import Sequence

from kshot.bundle import Bundle, Calibration
from kshot.trainer.bundling.calibration import TemperatureFit
from kshot.trainer.bundling.step_counts import StepCountFit


def calibration_document(
    copy: Bundle,
    calibration: Calibration,
    fits: Sequence[TemperatureFit],
    steps: Sequence[StepCountFit],
) -> dict[str, object]:
    """Lay out a calibrated copy as the command's JSON; accuracies and ECE in 0..1, NLL in nats."""
    return {
        "bundle": str(copy.path),
        "bundle_digest": copy.digest,
        "split": calibration.part,
        "data_digest": calibration.data_digest,
        "way": calibration.way,
        "tasks": calibration.task_count,
        "queries": calibration.query_count,
        "step_count": calibration.step_count,
        "seed": calibration.seed,
        "step_counts": [
            {
                **vars(fit.rule),
                "accuracy": fit.accuracy,
                "difference": fit.difference.mean,
                "difference_ci95": fit.difference.half_width,
            }
            for fit in steps
        ],
        "temperatures": [
            {
                "batch_norm_mode": fit.rule.batch_norm_mode,
                "shot": fit.rule.shot,
                "temperature": fit.rule.temperature,
                "accuracy": fit.after.accuracy,
                "ece": fit.after.ece,
                "nll": fit.after.nll,
                "uncalibrated_ece": fit.before.ece,
                "uncalibrated_nll": fit.before.nll,
                "diverged": fit.after.diverged_count,
            }
            for fit in fits
        ],
    }


def calibration_text(
    copy: Bundle, fits: Sequence[TemperatureFit], steps: Sequence[StepCountFit]
) -> str:
    """Lay out steps and temperatures of a calibrated copy for people; its folder comes last."""
    said = [
        f"up to {fit.rule.max_shot}-shot: {fit.rule.step_count} steps, {fit.accuracy:.2%}, "
        f"{100 * fit.difference.mean:+.2f} ± {100 * fit.difference.half_width:.2f} points"
        for fit in steps
    ]
    said += [
        f"{fit.rule.batch_norm_mode}, {fit.rule.shot:g}-shot: temperature "
        f"{fit.rule.temperature:.4g}, ECE {fit.before.ece:.4f} -> {fit.after.ece:.4f}, NLL "
        f"{fit.before.nll:.4f} -> {fit.after.nll:.4f}"
        for fit in fits
    ]
    return "\n".join([*said, str(copy.path)])
