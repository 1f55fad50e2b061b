"""What `kshot calibrate` prints."""

from collections.abc import Sequence

from kshot.bundle import Bundle
from kshot.trainer.bundling.calibration import TemperatureFit

__all__ = ["calibration_document", "calibration_text"]


def calibration_document(copy: Bundle, fits: Sequence[TemperatureFit]) -> dict[str, object]:
    """Lay out a calibrated copy as the command's JSON; accuracies and ECE in 0..1, NLL in nats."""
    calibration = copy.manifest.calibration
    assert calibration is not None  # noqa: S101 -- that is what the copy is
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
        "temperatures": [
            {
                "batch_norm_mode": fit.rule.batch_norm_mode,
                "shot": fit.rule.shot,
                "temperature": fit.rule.temperature,
                "accuracy": fit.accuracy,
                "ece": fit.ece,
                "nll": fit.nll,
                "uncalibrated_ece": fit.uncalibrated_ece,
                "uncalibrated_nll": fit.uncalibrated_nll,
                "diverged": fit.diverged_count,
            }
            for fit in fits
        ],
    }


def calibration_text(copy: Bundle, fits: Sequence[TemperatureFit]) -> str:
    """Lay out the temperatures of a calibrated copy for people, and its folder last."""
    said = [
        f"{fit.rule.batch_norm_mode}, {fit.rule.shot:g}-shot: temperature "
        f"{fit.rule.temperature:.4g}, ECE {fit.uncalibrated_ece:.4f} -> {fit.ece:.4f}, NLL "
        f"{fit.uncalibrated_nll:.4f} -> {fit.nll:.4f}"
        for fit in fits
    ]
    return "\n".join([*said, str(copy.path)])
