#!/usr/bin/env bash
# Masks on one GPU (24 GB or more): stage 4 on a 3B model. Trains the projector and SAM2. The MLLM is frozen, so it needs
# no gradients and no optimizer states.
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL=${MODEL:-output/citrusv-3b}
DATASET=${DATASET:-data/segmentation.jsonl}
OUTPUT=${OUTPUT:-output/single_gpu}

# Builds a Citrus-V directory with a 3B model and a smaller SAM2, once.
if [ ! -e "$MODEL" ]; then
    citrusv build --mllm "${MLLM:-Qwen/Qwen2.5-VL-3B-Instruct}" --sam2 "${SAM2:-facebook/sam2.1-hiera-base-plus}" \
        --output "$MODEL"
fi
citrusv check-data "$DATASET"

# Smaller packs than on a cluster: 4 segmentation images per step, with gradients accumulated over 4 steps.
swift sft templates/stage4.yaml \
    --model "$MODEL" \
    --dataset "$DATASET" \
    --output_dir "$OUTPUT" \
    --add_version false \
    --max_length 4096 \
    --model_kwargs '{"seg_lr": 8e-5, "pack_images": 4, "seg_chunk": 1}' \
    --gradient_accumulation_steps 4 \
    "$@"
