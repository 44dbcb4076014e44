#!/usr/bin/env bash
# Stage 2 on 8 GPUs, comprehension enhancement: trains the whole MLLM on reports, documents, charts, VQA.
# Learning rates, epochs and frozen parts are set in templates/stage2.yaml. Flags after the script's name are passed to
# swift sft and override the file, e.g. examples/stage2.sh --max_length 4096.
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL=${MODEL:-output/stage1/last-checkpoint}
DATASET=${DATASET:-data/comprehension.jsonl}
OUTPUT=${OUTPUT:-output/stage2}

# Finds bad rows in the first minute instead of hour ten, and lists each with its line number.
citrusv check-data "$DATASET"

# ZeRO-2 (section 4.3.1). swift starts torchrun itself if NPROC_PER_NODE is set.
NPROC_PER_NODE=${NPROC_PER_NODE:-8} \
swift sft "templates/stage2.yaml" \
    --model "$MODEL" \
    --dataset "$DATASET" \
    --output_dir "$OUTPUT" \
    --add_version false \
    --deepspeed zero2 \
    "$@"
