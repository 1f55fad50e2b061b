#!/usr/bin/env bash
# Runs on a machine with a GPU, without network and without installing kshot: the tests marked gpu, a
# training from its recipe with resume, and the evaluation of its bundle.
#
#   KSHOT_DATA=DIR OUT=DIR benchmarks/gpu.sh
#
# What is left in OUT, every piece below 16 MiB:
#   environment.json        the GPU, the versions, the commit
#   gpu-tests.txt           what pytest said
#   checkpoint.safetensors  the training so far; a later run that finds it in RESUME goes on from it
#   bundle.tar.gz           the bundle, once the training is finished
#   evaluation-MODE.json    the evaluation in each batch-norm mode, once there is a bundle
#   training.log            the progress
#
# RESUME           folder with the checkpoint.safetensors of an earlier run
# RECIPE           recipe to train                                       [omniglot-5way]
# META_ITERATIONS  length of the training                                [the recipe's]
# TRAIN_SECONDS    time after which the training stops at a checkpoint   [420]
# TASKS            tasks of the evaluation                               [1000]
# DEVICE           cuda, or cpu to try this script                       [cuda]
# PYTHON           interpreter                                           [python3]
set -euo pipefail
cd "$(dirname "$0")/.."

: "${KSHOT_DATA:?names the folder with the data sets}" "${OUT:?names the folder for the results}"
recipe=${RECIPE:-omniglot-5way}
device=${DEVICE:-cuda}
python=${PYTHON:-python3}
export PYTHONPATH=proto:bundle:learner:trainer:server:client:benchmarks${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1
# With several GPUs the others' users should not notice.
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
mkdir -p "$OUT"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
run=$scratch/run
mkdir "$run"

commit=$(git rev-parse HEAD 2>/dev/null || echo unknown) "$python" - >"$OUT/environment.json" <<'PYTHON'
import json, os, platform
import torch

gpu = torch.cuda.is_available()
print(json.dumps({
    "gpu": torch.cuda.get_device_name() if gpu else None,
    "gpu_memory_bytes": torch.cuda.get_device_properties(0).total_memory if gpu else None,
    "cuda": torch.version.cuda,
    "torch": torch.__version__,
    "python": platform.python_version(),
    "commit": os.environ["commit"],
}, indent=2))
PYTHON
cat "$OUT/environment.json"

failed=0
"$python" -m pytest tests -m gpu -q -p no:cacheprovider 2>&1 | tee "$OUT/gpu-tests.txt" || failed=1

resume=()
if [ -n "${RESUME:-}" ] && [ -e "$RESUME/checkpoint.safetensors" ]; then
  cp "$RESUME/checkpoint.safetensors" "$run/"
  resume=(--resume)
fi
length=()
[ -z "${META_ITERATIONS:-}" ] || length=(--set "outer.meta_iterations=$META_ITERATIONS")
# The signal makes the training write a checkpoint and leave with 130.
trained=0
timeout --signal=INT "${TRAIN_SECONDS:-420}" \
  "$python" -m kshot train "$recipe" --out "$run" --device "$device" "${length[@]}" "${resume[@]}" \
  >"$scratch/bundle-path" 2>"$OUT/training.log" || trained=$?
tail -n 20 "$OUT/training.log" >&2
cp "$run/checkpoint.safetensors" "$OUT/" 2>/dev/null || echo "no checkpoint yet" >&2

case $trained in
  0)
    bundle=$(cat "$scratch/bundle-path")
    tar -C "$run" -czf "$OUT/bundle.tar.gz" "${bundle#"$run"/}"
    for mode in support support_and_query transductive; do
      "$python" -m kshot evaluate "$bundle" --way 5 --shot 1 --queries 1 --tasks "${TASKS:-1000}" \
        --batch-norm-mode "$mode" --device "$device" --json | tee "$OUT/evaluation-$mode.json"
    done
    ;;
  124 | 130) echo "the training is not finished: run again with RESUME=$OUT" >&2 ;;
  *) failed=1 ;;
esac
exit "$failed"
