#!/usr/bin/env bash
# Everything that is measured on one GPU, in one command and under eight minutes:  bash benchmarks/gpu.sh [FOLDER]
# Needs a Python with torch for that GPU (PYTHON=... names it); installs this package and what it lacks beside.
# Writes FOLDER (default benchmarks/results/gpu): JSON and PNG per part with the device's name, a profile of one call of each
# rule, the CUDA tests' output; prints which targets hold.
set -uo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3} out=${1:-benchmarks/results/gpu}
mkdir -p "$out"
export PYTHONPATH="$PWD" PYTHONUNBUFFERED=1
"$python" -c 'import torch, sys; sys.exit(None if torch.cuda.is_available() else "no GPU that this torch can use")' || exit 1
"$python" -c 'import captum, matplotlib, torchvision' 2>/dev/null || "$python" -m pip install -q captum matplotlib torchvision
"$python" -c 'import pytest, hypothesis' 2>/dev/null || "$python" -m pip install -q pytest hypothesis

part() {  # name, seconds, then the command: a part that fails or is late leaves the others' results alone
    local name=$1 seconds=$2 begun=$SECONDS
    shift 2
    timeout "$seconds" "$@" >"$out/$name.log" 2>&1
    echo "$name: exit $? after $((SECONDS - begun)) s (see $out/$name.log)"
}

rounds() { "$python" -m benchmarks.throughput --device cuda --rounds "$@"; }
part tests 90 "$python" -m pytest -q tests/devices tests/rules/test_linear_rules.py -m "not slow" -p no:cacheprovider
part resnet18 75 rounds 9 --networks resnet18 --precisions fp32 tf32 bf16 --batch 64 --compile --peers --out "$out/resnet18.json"
part batches 60 bash -c "for batch in 1 16 256; do '$python' -m benchmarks.throughput --device cuda --rounds 5 --networks resnet18 \
    --rules epsilon zplus epsilon_plus_flat alphabeta --batch \$batch --out '$out/resnet18_b'\$batch.json; done"
part resnet50 60 rounds 5 --networks resnet50 --precisions fp32 bf16 --batch 64 --out "$out/resnet50.json"
part densenet121 50 rounds 5 --networks densenet121 --precisions fp32 bf16 --batch 64 --out "$out/densenet121.json"
part vgg16 40 rounds 5 --networks vgg16 --precisions tf32 bf16 --batch 64 --out "$out/vgg16.json"
part vit_b_16 50 rounds 5 --networks vit_b_16 --precisions fp32 tf32 bf16 --batch 64 --peers --out "$out/vit_b_16.json"
part graphs 30 rounds 5 --networks resnet18 --rules epsilon epsilon_plus_flat --batch 16 --compile reduce-overhead --out "$out/graphs.json"
part profile 20 "$python" -m benchmarks.gpu profile --out "$out/profile.txt"
"$python" -m benchmarks.gpu targets "$out"
