#!/usr/bin/env bash
# Adds segmentation to a LoRA run on a plain Qwen2.5-VL: trains LoRA on the language model, and the projector, SAM2 and
# the embedding of [SEG] in full. All of them are saved with the adapter and loaded with it.
#
# --model_type citrusv saves the modules seg_projector and segmenter by default, and makes [SEG] a trainable token of PEFT.
set -euo pipefail
cd "$(dirname "$0")/.."

MODEL=${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct}
SAM2=${SAM2:-facebook/sam2.1-hiera-large}
DATASET=${DATASET:-data/instructions.jsonl}
OUTPUT=${OUTPUT:-output/lora}

citrusv check-data "$DATASET"

# sam2 names the weights that are grafted onto the plain model. Pass it again wherever the adapter is loaded, as in the
# export below: ms-swift does not save --model_kwargs with an adapter.
NPROC_PER_NODE=${NPROC_PER_NODE:-8} \
swift sft \
    --model "$MODEL" \
    --model_type citrusv \
    --model_kwargs "{\"sam2\": \"$SAM2\", \"seg_lr\": 8e-5}" \
    --dataset "$DATASET" \
    --output_dir "$OUTPUT" \
    --add_version false \
    --tuner_type lora \
    --lora_rank 16 \
    --lora_alpha 32 \
    --learning_rate 1e-4 \
    --packing true \
    --max_length 8192 \
    --per_device_train_batch_size 1 \
    --num_train_epochs 3 \
    --deepspeed zero2 \
    --check_model false \
    "$@"

# One Citrus-V directory that needs neither the adapter nor the plain model.
swift export \
    --adapters "$OUTPUT/last-checkpoint" \
    --model_kwargs "{\"sam2\": \"$SAM2\"}" \
    --merge_lora true \
    --exist_ok true \
    --output_dir "$OUTPUT/merged"
