"""The flags of `swift sft` that work with Citrus-V, or do not matter to it, each with the reason.

Exceptions (values and combinations) are in `rules`. 'works' means that the flag concerns the model, its rows or its
training, and does there what ms-swift documents. 'no matter' means that it acts elsewhere and is passed on unchanged.
"""
from typing import NamedTuple

WORKS, NO_MATTER = 'works', 'no matter'


class Sort(NamedTuple):
    """Flags that share an outcome.

    outcome: `WORKS` or `NO_MATTER`.
    flags: Their names, separated by spaces.
    reason: One sentence for the documentation.
    """
    outcome: str
    flags: str
    reason: str


# By the titles of docs/compatibility.md.
SORTS: dict[str, list[Sort]] = {
    'Model': [
        Sort(WORKS, 'model model_type model_revision', 'A Citrus-V directory, or a plain Qwen2.5-VL that gets SAM2.'),
        Sort(WORKS, 'task_type', 'causal_lm, the default.'),
        Sort(WORKS, 'torch_dtype fp16 bf16', 'For the MLLM; the projector and SAM2 stay in float32.'),
        Sort(WORKS, 'attn_impl', 'For the MLLM; packs get an attention that separates rows.'),
        Sort(WORKS, 'new_special_tokens', 'Added beside [SEG].'),
        Sort(WORKS, 'device_map', 'One device; auto takes the first.'),
        Sort(WORKS, 'adapters', 'Training goes on from a saved adapter.'),
        Sort(WORKS, 'model_kwargs', 'The settings of the plugin, and those of ms-swift for images and videos.'),
        Sort(NO_MATTER, 'init_strategy', 'Only initialises weights that a checkpoint left undefined; SAM2 has all.'),
        Sort(NO_MATTER, 'rope_scaling max_model_len', 'Passed on to Transformers; nobody has measured masks with it.'),
        Sort(NO_MATTER, 'local_repo_path', 'Only read by --optimizer muon and other models.'),
        Sort(NO_MATTER, 'use_cache', 'ms-swift turns the cache off in training.'),
        Sort(NO_MATTER, 'use_hf hub_token download_mode check_model', 'Where files are downloaded from.'),
        Sort(NO_MATTER, 'enable_npu_model_patch', 'For Ascend NPUs.'),
    ],
    'Rows': [
        Sort(WORKS, 'dataset val_dataset split_dataset_ratio custom_dataset_info columns disable_auto_column_mapping',
             'Rows with `masks`: see [data.md](data.md).'),
        Sort(WORKS, 'strict', 'true by default: a bad row ends the run. false skips it and says so.'),
        Sort(WORKS, 'streaming interleave_prob stopping_strategy shuffle_buffer_size',
             'Streams keep row numbers: see [packing.md](packing.md).'),
        Sort(WORKS, 'dataset_shuffle val_dataset_shuffle data_seed dataset_num_proc load_from_cache_file',
             'As in ms-swift; lengths are measured without decoding images.'),
        Sort(WORKS, 'cached_dataset cached_val_dataset',
             'Made by `to_cached_dataset` of `swift export`, with this plugin.'),
        Sort(WORKS, 'lazy_tokenize', 'As in ms-swift.'),
        Sort(WORKS, 'remove_unused_columns', 'Columns of the row contract stay in any case.'),
        Sort(NO_MATTER, 'model_name model_author', "For ms-swift's dataset self-cognition."),
    ],
    'Template': [
        Sort(WORKS, 'template', 'citrusv, the default.'),
        Sort(WORKS, 'system agent_template norm_bbox use_chat_template', 'As for Qwen2.5-VL.'),
        Sort(WORKS, 'max_length truncation_strategy',
             'A row that loses a [SEG] is an error; `split` needs packing and keeps each [SEG] with its image.'),
        Sort(WORKS, 'max_pixels', 'Scales the images of the MLLM; SAM2 and the masks keep their own size.'),
        Sort(WORKS, 'padding_side padding_free packing packing_length packing_strategy',
             'See [packing.md](packing.md).'),
        Sort(WORKS, 'loss_scale is_binary_loss_scale',
             'Weights of the token loss. A [SEG] without weight trains no mask.'),
        Sort(NO_MATTER, 'template_backend', 'swift, the default.'),
        Sort(NO_MATTER, 'enable_thinking preserve_thinking add_non_thinking_prefix disable_ignore_empty_think',
             'Qwen2.5-VL has no thinking mode.'),
    ],
    'What trains': [
        Sort(WORKS, 'tuner_type', 'See [quantization and tuner types](#quantization-and-tuner-types).'),
        Sort(WORKS, 'freeze_llm freeze_vit freeze_aligner', 'The parts of the MLLM, with full or LoRA.'),
        Sort(
            WORKS, 'freeze_parameters freeze_parameters_regex freeze_parameters_ratio trainable_parameters '
            'trainable_parameters_regex',
            'With --tuner_type full; freeze_parameters takes segmenter and seg_projector with '
            'a tuner too, for runs on text alone.'),
        Sort(WORKS, 'gradient_checkpointing gradient_checkpointing_kwargs vit_gradient_checkpointing',
             'For the MLLM; SAM2 works through its images in chunks (seg_chunk).'),
        Sort(WORKS, 'neftune_noise_alpha', 'Noise on the embeddings of the MLLM.'),
        Sort(WORKS, 'lisa_activated_layers lisa_step_interval', 'Freezes layers of the language model.'),
    ],
    'Loss and optimizer': [
        Sort(WORKS, 'loss_type', 'citrusv, the default.'),
        Sort(WORKS, 'optimizer', 'citrusv, the default: a learning rate for each part.'),
        Sort(WORKS, 'learning_rate vit_lr aligner_lr', 'seg_lr is the rate of the projector and SAM2.'),
        Sort(WORKS, 'optim optim_args adam_beta1 adam_beta2 adam_epsilon weight_decay',
             'The same for all parts; biases and norms have no weight decay.'),
        Sort(WORKS, 'max_grad_norm', 'One norm over all parts.'),
        Sort(WORKS, 'lr_scheduler_type lr_scheduler_kwargs warmup_steps warmup_ratio',
             'All parts follow the same schedule, each from its own rate.'),
        Sort(
            WORKS, 'lorap_lr_ratio use_galore galore_target_modules galore_rank galore_update_proj_gap galore_scale '
            'galore_proj_type galore_optim_per_parameter galore_with_embedding galore_quantization galore_proj_quant '
            'galore_proj_bits galore_proj_group_size galore_cos_threshold galore_gamma_proj galore_queue_size',
            'Segmentation trains at --learning_rate.'),
        Sort(WORKS, 'gradient_accumulation_steps per_device_train_batch_size average_tokens_across_devices',
             'The loss is a mean over the whole optimizer step, all ranks included.'),
        Sort(WORKS, 'use_logits_to_keep', 'Logits of supervised positions only; the gradient is the same.'),
        Sort(WORKS, 'enable_channel_loss acc_strategy', 'Logs of the token loss.'),
        Sort(NO_MATTER, 'logging_nan_inf_filter', 'The setting nonfinite decides about NaN and Inf.'),
    ],
    'Steps and batches': [
        Sort(WORKS, 'num_train_epochs max_steps max_epochs train_dataloader_shuffle group_by_length seed '
             'full_determinism', 'As in ms-swift.'),
        Sort(WORKS, 'auto_find_batch_size', 'Starts again with half the batch; a pack cannot be halved.'),
        Sort(
            WORKS, 'dataloader_num_workers dataloader_persistent_workers dataloader_prefetch_factor '
            'dataloader_pin_memory dataloader_drop_last dataloader_multiprocessing_context',
            'As in ms-swift; a stream of packs has at most one worker a rank.'),
        Sort(NO_MATTER, 'tf32 torch_empty_cache_steps skip_memory_metrics debug use_cpu', 'Passed on to Transformers.'),
    ],
    'Evaluation': [
        Sort(
            WORKS, 'eval_strategy eval_steps eval_delay eval_on_start per_device_eval_batch_size '
            'eval_accumulation_steps eval_use_gather_object prediction_loss_only', 'As in Transformers.'),
        Sort(WORKS, 'eval_metric', 'citrusv, the default, or [others](evaluation.md#while-training).'),
        Sort(
            WORKS, 'predict_with_generate max_new_tokens temperature top_k top_p repetition_penalty num_beams '
            'ds3_gather_for_generation', 'Answers as text; masks are not drawn.'),
        Sort(WORKS, 'metric_for_best_model greater_is_better load_best_model_at_end early_stop_interval',
             'Any logged score, such as `dice`.'),
        Sort(NO_MATTER, 'eval_use_evalscope eval_dataset eval_dataset_args eval_limit eval_generation_config '
             'extra_eval_args', 'EvalScope scores texts.'),
    ],
    'Checkpoints and logs': [
        Sort(
            WORKS, 'output_dir add_version create_checkpoint_symlink save_strategy save_steps save_total_limit '
            'save_only_model safe_serialization max_shard_size save_on_each_node enable_jit_checkpoint',
            'Checkpoints are sealed: see [robustness.md](robustness.md).'),
        Sort(WORKS, 'resume_from_checkpoint resume_only_model ignore_data_skip '
             'restore_callback_states_from_checkpoint', 'From the last complete checkpoint.'),
        Sort(WORKS, 'callbacks', 'citrusv is added to those given.'),
        Sort(
            NO_MATTER, 'logging_dir logging_strategy logging_steps logging_first_step log_level log_level_replica '
            'log_on_each_node report_to run_name project disable_tqdm include_num_input_tokens_seen '
            'trackio_space_id trackio_bucket_id trackio_static_space_id swanlab_token swanlab_project '
            'swanlab_workspace swanlab_exp_name swanlab_notification_method swanlab_webhook_url swanlab_secret '
            'swanlab_sender_email swanlab_receiver_email swanlab_smtp_server swanlab_smtp_port '
            'swanlab_email_language swanlab_mode', 'Where logs go.'),
        Sort(NO_MATTER, 'push_to_hub hub_model_id hub_strategy hub_private_repo hub_always_push hub_revision',
             'Uploads of the saved files.'),
        Sort(NO_MATTER, 'external_plugins custom_register_path load_args load_data_args ignore_args_error',
             'How arguments are read.'),
    ],
    'Several GPUs': [
        Sort(WORKS, 'deepspeed zero_hpz_partition_size fsdp',
             'ZeRO-0 to 3 and FSDP2: see [robustness.md](robustness.md).'),
        Sort(WORKS, 'ddp_backend ddp_timeout local_rank ddp_find_unused_parameters ddp_bucket_cap_mb '
             'ddp_broadcast_buffers', 'Every rank gives every trained parameter a gradient in each step.'),
        Sort(NO_MATTER, 'accelerator_config', 'Passed on to Accelerate.'),
    ],
}


def sorted_flags() -> dict[str, list[Sort]]:
    """The entries of each flag, by its name."""
    found: dict[str, list[Sort]] = {}
    for entries in SORTS.values():
        for entry in entries:
            for flag in entry.flags.split():
                found.setdefault(flag, []).append(entry)
    return found
