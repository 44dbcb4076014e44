#!/usr/bin/env bash
# Stage 4 on 8 GPUs, segmentation fine-tuning: the projector and SAM2 learn, the MLLM rests.
# Learning rates, epochs and what is frozen stand in templates/stage4.yaml; flags after the script's name go to swift sft
# and win over the file, e.g. examples/stage4.sh --max_length 4096.
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL=${MODEL:-output/stage3/last-checkpoint}
DATASET=${DATASET:-data/segmentation.jsonl}
OUTPUT=${OUTPUT:-output/stage4}

# A bad row found in hour ten is found in minute one; the output of every failing row is its number.
citrusv check-data "$DATASET"

# ZeRO-2 (section 4.3.1); swift starts torchrun by itself when NPROC_PER_NODE is set.
NPROC_PER_NODE=${NPROC_PER_NODE:-8} \
swift sft "templates/stage4.yaml" \
    --model "$MODEL" \
    --dataset "$DATASET" \
    --output_dir "$OUTPUT" \
    --add_version false \
    --deepspeed zero2 \
    "$@"
