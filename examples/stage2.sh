#!/usr/bin/env bash
# Stage 2 on 8 GPUs, comprehension enhancement: all of the MLLM learns; reports, documents, charts, VQA.
# Learning rates, epochs and what is frozen stand in templates/stage2.yaml; flags after the script's name go to swift sft
# and win over the file, e.g. examples/stage2.sh --max_length 4096.
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL=${MODEL:-output/stage1/last-checkpoint}
DATASET=${DATASET:-data/comprehension.jsonl}
OUTPUT=${OUTPUT:-output/stage2}

# A bad row found in hour ten is found in minute one; the output of every failing row is its number.
citrusv check-data "$DATASET"

# ZeRO-2 (section 4.3.1); swift starts torchrun by itself when NPROC_PER_NODE is set.
NPROC_PER_NODE=${NPROC_PER_NODE:-8} \
swift sft "templates/stage2.yaml" \
    --model "$MODEL" \
    --dataset "$DATASET" \
    --output_dir "$OUTPUT" \
    --add_version false \
    --deepspeed zero2 \
    "$@"
