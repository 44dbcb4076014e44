#!/usr/bin/env bash
# Stage 3 on 8 GPUs, instruction fine-tuning: trains everything; the mask loss's gradient enters the MLLM at 0.001.
# Learning rates, epochs and frozen parts are set in templates/stage3.yaml. Flags after the script's name are passed to
# swift sft and override the file, e.g. examples/stage3.sh --max_length 4096.
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL=${MODEL:-output/stage2/last-checkpoint}
DATASET=${DATASET:-data/instructions.jsonl}
OUTPUT=${OUTPUT:-output/stage3}

# Finds bad rows in the first minute instead of hour ten, and lists each with its line number.
citrusv check-data "$DATASET"

# ZeRO-2 (section 4.3.1). swift starts torchrun itself if NPROC_PER_NODE is set.
NPROC_PER_NODE=${NPROC_PER_NODE:-8} \
swift sft "templates/stage3.yaml" \
    --model "$MODEL" \
    --dataset "$DATASET" \
    --output_dir "$OUTPUT" \
    --add_version false \
    --deepspeed zero2 \
    "$@"
