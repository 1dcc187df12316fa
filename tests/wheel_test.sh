#!/usr/bin/env bash
# Build the wheel, install it into a clean environment, leave the checkout, and use it: make wheel-test
set -euo pipefail
repo=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${BUILD_PYTHON:-python3}" -m build --wheel --no-isolation --outdir "$work/dist" "$repo" >"$work/build.log" 2>&1 \
  || { tail -30 "$work/build.log"; exit 1; }
"${PYTHON:-python3}" -m venv "$work/env"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check -r "$repo/requirements.txt"
"$work/env/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$work"/dist/*.whl
mkdir "$work/elsewhere" && cd "$work/elsewhere"
export PATH="$work/env/bin:$PATH" HF_HUB_OFFLINE=1
paretolm --help
paretolm train --cfg job >train.yaml && grep -q '^sampler:' train.yaml
for space in gpt-s gpt-m gpt-l; do
  paretolm query --space "$space" --sample 2 --metric latency,perplexity >query.txt && grep -q h100 query.txt
done
paretolm demo --smoke
test -s runs/demo/summary.json && test -s runs/demo/report.html
paretolm prune model=runs/demo/train/supernet budget.params=-20% mode=heterogeneous calibration.seq_len=32 \
  calibration.n_blocks=8 calibration.n_held_out_blocks=4 search.n_evaluations=8 "prompts=[import]" progress=false \
  run_dir=runs/pruned
test -s runs/pruned/report.html && test -s runs/pruned/hf/config.json
echo "wheel test: the wheel works outside the checkout"
