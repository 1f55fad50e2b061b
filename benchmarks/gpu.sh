#!/usr/bin/env bash
# Runs tests, benches, a training and an evaluation on a machine with a GPU. It needs no network and
# no installation of kshot.
#
#   KSHOT_DATA=DIR OUT=DIR benchmarks/gpu.sh
#
# After a failed stage the next one still runs; the exit code is then 1. Files in OUT, each smaller
# than 16 MiB:
#   environment.json        the GPU, the versions, the commit
#   gpu-tests.txt           pytest's output of the tests that are marked gpu
#   BENCH.json, BENCH.log   the result of each bench, and its progress
#   checkpoint.safetensors  the training so far; a later run continues it from RESUME
#   bundle.tar.gz           the bundle of a finished training
#   evaluation-MODE.json    the evaluation in each batch-norm mode
#   training.log            the training's progress
#
# STAGES           stages to run: tests, bench, train, evaluate          [tests bench train evaluate]
# BENCHES          benches to run, by their names in bench()             [all]
# ROUNDS           samples of each contender                             [each bench's own number]
# STACKED          tasks that step together                              [64]
# FORMS            forms of the convolutions to time                     [dddd cddc cccc]
# PROFILE_STEPS    steps under the profiler                              [200]
# SERVE_SECONDS    length of each load                                   [5]
# TURNS            parts of each load that is compared                   [4]
# CONCURRENCY      callers of the loads                                  [1,8,64]
# ENGINES          numbers of engines                                    [1,2]
# ENCODER          folder of a bundle with an encoder and a tail, such as photos;
#                  without one the benches encoder and tail are left out
# BENCH_SECONDS    time limit of each bench                              [300]
# RESUME           folder with the checkpoint.safetensors of an earlier run
# RECIPE           recipe to train                                       [omniglot-5way]
# META_ITERATIONS  length of the training                                [the recipe's]
# TRAIN_SECONDS    time after which the training stops at a checkpoint, or 0 for the whole [420]
# BUNDLE           bundle to evaluate when none is trained               [omniglot, a built-in bundle]
# TASKS            tasks of the evaluation                               [1000]
# DEVICE           cuda, or cpu to try this script                       [cuda]
# PYTHON           interpreter                                           [python3]
# KSHOT_CACHE      folder of compiled steps for later runs;
#                  git ignores the default                               [build/kshot-cache]
set -euo pipefail
cd "$(dirname "$0")/.."

: "${OUT:?names the folder for the results}"
stages=${STAGES:-tests bench train evaluate}
recipe=${RECIPE:-omniglot-5way}
device=${DEVICE:-cuda}
python=${PYTHON:-python3}
for stage in $stages; do
  case $stage in
    tests | bench) ;;
    train | evaluate) : "${KSHOT_DATA:?names the folder with the data sets}" ;;
    *)
      echo "STAGES: expected tests, bench, train or evaluate, got $stage" >&2
      exit 2
      ;;
  esac
done
export PYTHONPATH=proto:bundle:learner:trainer:server:client:benchmarks${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1
# Leave other GPUs to their users.
export CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES:-0}
export KSHOT_CACHE=${KSHOT_CACHE:-$PWD/build/kshot-cache}
mkdir -p "$OUT"
(umask 077 && mkdir -p "$KSHOT_CACHE")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
run=$scratch/run
mkdir "$run"
failed=0
bundle=

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

run_tests() {
  "$python" -m pytest tests -m gpu -q -p no:cacheprovider 2>&1 | tee "$OUT/gpu-tests.txt" || failed=1
}

# bench NAME: run one, its result to NAME.json
bench() {
  local rounds=() command=()
  [ -z "${ROUNDS:-}" ] || rounds=(--rounds "$ROUNDS")
  local kshot=("$python" -m kshot bench)
  local adapt=("${kshot[@]}" adapt --tasks "${STACKED:-64}" --device "$device" --json "${rounds[@]}")
  local load=(--device "$device" --json --seconds "${SERVE_SECONDS:-5}" --turns "${TURNS:-4}")
  local serve=("${kshot[@]}" serve "${load[@]}" --concurrency "${CONCURRENCY:-1,8,64}")
  local engines=("${kshot[@]}" engines "${load[@]}" --engines "${ENGINES:-1,2}")
  local encoder=(--bundle "${ENCODER:-}")
  local step=("$python" benchmarks/inner_step.py --device "$device")
  local forms=(forms "${rounds[@]}") profile=(profile --steps "${PROFILE_STEPS:-200}")
  local which
  read -ra which <<<"${FORMS:-dddd cddc cccc}"
  case $1 in
    adapt-5way-1shot) command=("${adapt[@]}" --way 5 --shot 1 --batch-size 5) ;;
    adapt-5way-5shot) command=("${adapt[@]}" --way 5 --shot 5 --batch-size 25) ;;
    adapt-20way-1shot) command=("${adapt[@]}" --way 20 --shot 1 --batch-size 20) ;;
    train) command=("${kshot[@]}" train --device "$device" --json "${rounds[@]}") ;;
    predict) command=("${kshot[@]}" predict --device "$device" --json "${rounds[@]}") ;;
    serve) command=("${serve[@]}") ;;
    serve-20way) command=("${serve[@]}" --way 20) ;;
    engines) command=("${engines[@]}") ;;
    engines-20way) command=("${engines[@]}" --way 20) ;;
    encoder)
      command=("${kshot[@]}" encoder --device "$device" --json --seconds "${SERVE_SECONDS:-5}"
        "${encoder[@]}")
      ;;
    # The tail adapts in the default Adapt of Adapt by steps.
    tail) command=("${serve[@]}" "${encoder[@]}" --shot 5 --step-counts 1) ;;
    forms-1) command=("${step[@]}" --tasks 1 "${forms[@]}" "${which[@]}") ;;
    forms-stacked) command=("${step[@]}" --tasks "${STACKED:-64}" "${forms[@]}" "${which[@]}") ;;
    profile-1) command=("${step[@]}" --tasks 1 "${profile[@]}") ;;
    profile-20way) command=("${step[@]}" --way 20 --batch-size 20 --tasks 1 "${profile[@]}") ;;
    profile-stacked) command=("${step[@]}" --tasks "${STACKED:-64}" "${profile[@]}") ;;
    *)
      echo "BENCHES: expected a name in bench(), got $1" >&2
      return 1
      ;;
  esac
  echo "bench $1" >&2
  local ended=0
  # INT lets a bench stop its own server; KILL ends one that does not stop.
  timeout --signal=INT --kill-after=30 "${BENCH_SECONDS:-300}" "${command[@]}" \
    >"$scratch/result.json" 2>"$OUT/$1.log" || ended=$?
  if ((ended)); then
    tail -n 3 "$OUT/$1.log" >&2
    echo "bench $1 failed with exit code $ended (124: over ${BENCH_SECONDS:-300} s)" >&2
    return 1
  fi
  cp "$scratch/result.json" "$OUT/$1.json"
}

run_bench() {
  local name all="adapt-5way-1shot adapt-5way-5shot adapt-20way-1shot train predict"
  all+=" serve serve-20way engines engines-20way${ENCODER:+ encoder tail}"
  all+=" forms-1 forms-stacked profile-1 profile-20way profile-stacked"
  for name in ${BENCHES:-$all}; do
    bench "$name" || failed=1
  done
}

run_train() {
  local resume=() length=() trained=0
  if [ -n "${RESUME:-}" ] && [ -e "$RESUME/checkpoint.safetensors" ]; then
    cp "$RESUME/checkpoint.safetensors" "$run/"
    resume=(--resume)
  fi
  [ -z "${META_ITERATIONS:-}" ] || length=(--set "outer.meta_iterations=$META_ITERATIONS")
  # On the signal, the training writes a checkpoint and exits with 130.
  timeout --signal=INT "${TRAIN_SECONDS:-420}" \
    "$python" -m kshot train "$recipe" --out "$run" --device "$device" "${length[@]}" "${resume[@]}" \
    >"$scratch/bundle-path" 2>"$OUT/training.log" || trained=$?
  tail -n 20 "$OUT/training.log" >&2
  cp "$run/checkpoint.safetensors" "$OUT/" 2>/dev/null || echo "no checkpoint yet" >&2
  case $trained in
    0)
      bundle=$(cat "$scratch/bundle-path")
      tar -C "$run" -czf "$OUT/bundle.tar.gz" "${bundle#"$run"/}" || failed=1
      ;;
    124 | 130) echo "the training is not finished: run again with RESUME=$OUT" >&2 ;;
    *) failed=1 ;;
  esac
}

run_evaluate() {
  if [ -z "$bundle" ] && [[ " $stages " == *" train "* ]]; then
    echo "evaluate: no trained bundle" >&2
    return
  fi
  local mode
  for mode in support support_and_query transductive; do
    "$python" -m kshot evaluate "${bundle:-${BUNDLE:-omniglot}}" --way 5 --shot 1 --queries 1 \
      --tasks "${TASKS:-1000}" --batch-norm-mode "$mode" --device "$device" --json |
      tee "$OUT/evaluation-$mode.json" || failed=1
  done
}

for stage in $stages; do
  case $stage in
    tests) run_tests ;;
    bench) run_bench ;;
    train) run_train ;;
    evaluate) run_evaluate ;;
  esac
done
exit "$failed"
