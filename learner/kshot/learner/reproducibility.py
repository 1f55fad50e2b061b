"""Settings of torch by which a device computes exactly and repeatably."""

import torch


def compute_reproducibly() -> None:
    """Compute float32 as float32, and the same twice, on a GPU as on a CPU.

    Without this, cuDNN rounds the factors of its convolutions to TF32 (about three digits) and may
    choose algorithms whose sums come in any order. It holds for the whole process.
    """
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False
