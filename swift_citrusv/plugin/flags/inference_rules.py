"""What becomes of the flags of `swift infer` and `swift deploy` (and `swift app`, which deploys)."""
from ...constants import MODEL_TYPE
from .rule import REFUSED, WARNED, Rule, Run
from .setting_rules import SettingRule, has_sam2
from .sorts import NO_MATTER, WORKS, Sort

_TRAINING = ('packing packing_length packing_num_proc packing_strategy padding_free loss_scale is_binary_loss_scale '
             'sequence_parallel_size lazy_tokenize cached_dataset cached_val_dataset')
_VLLM = ('vllm_gpu_memory_utilization vllm_tensor_parallel_size vllm_pipeline_parallel_size '
         'vllm_enable_expert_parallel vllm_max_num_seqs vllm_max_model_len vllm_disable_custom_all_reduce '
         'vllm_enforce_eager vllm_limit_mm_per_prompt vllm_max_lora_rank vllm_enable_prefix_caching '
         'vllm_use_async_engine vllm_quantization vllm_reasoning_parser vllm_disable_cascade_attn '
         'vllm_mm_processor_cache_gb vllm_speculative_config vllm_engine_kwargs vllm_data_parallel_size')
_SGLANG = ('sglang_tp_size sglang_pp_size sglang_dp_size sglang_ep_size sglang_enable_ep_moe '
           'sglang_mem_fraction_static sglang_context_length sglang_disable_cuda_graph sglang_quantization '
           'sglang_kv_cache_dtype sglang_enable_dp_attention sglang_disable_custom_all_reduce '
           'sglang_speculative_algorithm sglang_speculative_num_steps sglang_speculative_eagle_topk '
           'sglang_speculative_num_draft_tokens')
_LMDEPLOY = ('lmdeploy_tp lmdeploy_session_len lmdeploy_cache_max_entry_count lmdeploy_quant_policy '
             'lmdeploy_vision_batch_size')
_TRAINING_SETTINGS = (
    'seg_lr mask_grad_scale token_weight dice_weight bce_weight pack_images pack_buffer eval_pictures '
    'nonfinite')

SORTS: dict[str, list[Sort]] = {
    'Model': [
        Sort(
            WORKS, 'model model_type model_revision adapters merge_lora torch_dtype attn_impl new_special_tokens '
            'model_kwargs load_args tuner_type tuner_backend', 'As in training; an adapter brings its projector and '
            'SAM2.'),
        Sort(WORKS, 'device_map', 'One device; auto takes the first.'),
        Sort(WORKS, 'infer_backend', 'transformers, the default; [another engine](inference.md) may write the text.'),
        Sort(
            WORKS, 'quant_method quant_bits hqq_axis bnb_4bit_compute_dtype bnb_4bit_quant_type '
            'bnb_4bit_use_double_quant bnb_4bit_quant_storage',
            'See [quantization and tuner types](#quantization-and-tuner-types).'),
        Sort(NO_MATTER, 'rope_scaling max_model_len init_strategy', 'Passed on to Transformers.'),
        Sort(
            NO_MATTER, 'use_hf hub_token download_mode local_repo_path enable_npu_model_patch external_plugins '
            'custom_register_path ignore_args_error use_swift_lora log_level max_shard_size safe_serialization',
            'As in ms-swift.'),
    ],
    'Requests and answers': [
        Sort(
            WORKS, 'dataset val_dataset split_dataset_ratio val_dataset_sample columns custom_dataset_info '
            'disable_auto_column_mapping remove_unused_columns load_data_args dataset_num_proc load_from_cache_file '
            'dataset_shuffle val_dataset_shuffle data_seed seed streaming interleave_prob stopping_strategy '
            'shuffle_buffer_size', 'Rows as in training; `masks` are not needed.'),
        Sort(WORKS, 'strict', 'false writes an error into the line of a bad row.'),
        Sort(
            WORKS, 'system agent_template norm_bbox use_chat_template max_length truncation_strategy max_pixels '
            'response_prefix padding_side', 'As for Qwen2.5-VL; masks have the size of the image that was given.'),
        Sort(WORKS, 'template', 'citrusv, the default.'),
        Sort(WORKS, 'template_backend', 'swift, the default.'),
        Sort(WORKS, 'task_type', 'causal_lm, the default.'),
        Sort(
            WORKS, 'max_new_tokens temperature top_k top_p repetition_penalty num_beams stream stop_words logprobs '
            'top_logprobs', 'Masks belong to the answer that was generated.'),
        Sort(WORKS, 'max_batch_size result_path write_batch_size metric', 'Result lines have `masks`.'),
        Sort(
            NO_MATTER, 'enable_thinking preserve_thinking add_non_thinking_prefix disable_ignore_empty_think '
            'model_name model_author', 'Qwen2.5-VL has no thinking mode.'),
        Sort(NO_MATTER, 'ddp_backend ddp_timeout', 'Ranks share the rows.'),
    ],
    'Server': [
        Sort(
            NO_MATTER, 'host port api_key ssl_keyfile ssl_certfile owned_by served_model_name verbose log_interval '
            'max_logprobs', 'As in ms-swift.'),
    ],
}

RULES: dict[str, list[Rule]] = {
    'Model': [
        Rule(
            REFUSED,
            'task_type',
            'other than causal_lm',
            'Only causal_lm writes answers with masks.',
            'Leave it out.',
            '--{} embedding',
            when=lambda run: run.args.task_type != 'causal_lm',
            always=True),
        Rule(WARNED, f'{_VLLM} {_SGLANG} {_LMDEPLOY}', '', 'It is for another engine, which draws no masks.',
             'Leave it out.'),
        Rule(WARNED, 'num_labels problem_type reranker_use_activation', '', 'It is for other task types.',
             'Leave it out.'),
        Rule(WARNED, 'max_memory', '', 'Citrus-V runs on one device.', 'Leave it out.'),
        Rule(WARNED, 'experts_impl', '', 'Qwen2.5-VL has no experts.', 'Leave it out.'),
        Rule(WARNED, 'use_ray ray_exp_name device_groups', '', 'Nobody has run Citrus-V under Ray.', 'Leave it out.'),
    ],
    'Requests and answers': [
        Rule(
            REFUSED,
            'template',
            'of another model',
            'It does not keep the images for SAM2, so no mask would be drawn.',
            'Leave it out: --model_type citrusv has its own.',
            '--{} qwen2_5_vl',
            when=lambda run: run.args.template != MODEL_TYPE,
            always=True),
        Rule(WARNED, _TRAINING, '', 'It is for training.', 'Leave it out.'),
        Rule(WARNED, 'structured_outputs_regex', '', 'Only vLLM reads it.', 'Leave it out.'),
        Rule(WARNED, 'decision_drop_instructions decision_subsample_options decision_state_as_text '
             'decision_shuffle_fields', '', 'It is for --task_type decision.', 'Leave it out.'),
    ],
    'Settings': [
        SettingRule(
            WARNED,
            _TRAINING_SETTINGS,
            'in --model_kwargs',
            'It is for training.',
            'Remove it.',
            when=lambda run: _in_model_kwargs(run)),
        SettingRule(
            WARNED,
            'sam2 sam2_preset',
            'with a model that has its SAM2',
            'The model has its own SAM2.',
            'Remove it.',
            when=has_sam2),
    ],
}


def _in_model_kwargs(run: Run) -> bool:
    """Whether one of the settings was given for this run; the environment may be meant for others."""
    keys = {key.lower() for key in run.args.model_kwargs or {}}
    return bool(keys & set(_TRAINING_SETTINGS.split()))
