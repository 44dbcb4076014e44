#!/usr/bin/env bash
# Stage 4 on 8 GPUs, segmentation fine-tuning: trains the projector and SAM2; the MLLM stays frozen.
# Learning rates, epochs and frozen parts are set in templates/stage4.yaml. Flags after the script's name are passed to
# swift sft and override the file, e.g. examples/stage4.sh --max_length 4096.
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL=${MODEL:-output/stage3/last-checkpoint}
DATASET=${DATASET:-data/segmentation.jsonl}
OUTPUT=${OUTPUT:-output/stage4}

# Finds bad rows in the first minute instead of hour ten, and lists each with its line number.
citrusv check-data "$DATASET"

# ZeRO-2 (section 4.3.1). swift starts torchrun itself if NPROC_PER_NODE is set.
NPROC_PER_NODE=${NPROC_PER_NODE:-8} \
swift sft "templates/stage4.yaml" \
    --model "$MODEL" \
    --dataset "$DATASET" \
    --output_dir "$OUTPUT" \
    --add_version false \
    --deepspeed zero2 \
    "$@"
