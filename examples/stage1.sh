#!/usr/bin/env bash
# Stage 1 on 8 GPUs, concept alignment: trains the vision encoder and the aligner on image-caption pairs.
# Once before stage 1, build a Citrus-V directory from Qwen2.5-VL and SAM2:
#   citrusv build --mllm Qwen/Qwen2.5-VL-7B-Instruct --sam2 facebook/sam2.1-hiera-large --output output/citrusv-7b
# Learning rates, epochs and frozen parts are set in templates/stage1.yaml. Flags after the script's name are passed to
# swift sft and override the file, e.g. examples/stage1.sh --max_length 4096.
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL=${MODEL:-output/citrusv-7b}
DATASET=${DATASET:-data/captions.jsonl}
OUTPUT=${OUTPUT:-output/stage1}

# Finds bad rows in the first minute instead of hour ten, and lists each with its line number.
citrusv check-data "$DATASET"

# ZeRO-2 (section 4.3.1). swift starts torchrun itself if NPROC_PER_NODE is set.
NPROC_PER_NODE=${NPROC_PER_NODE:-8} \
swift sft "templates/stage1.yaml" \
    --model "$MODEL" \
    --dataset "$DATASET" \
    --output_dir "$OUTPUT" \
    --add_version false \
    --deepspeed zero2 \
    "$@"
