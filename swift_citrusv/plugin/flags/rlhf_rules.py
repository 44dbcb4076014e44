"""What becomes of the flags of `swift rlhf`, which trains text: its own ones, and how those of `swift sft` differ."""
from collections.abc import Callable

from ...constants import MODEL_TYPE
from .rule import REFUSED, WARNED, Rule, Run
from .sorts import WORKS, Sort

# By the values of --rlhf_type that read them.
_PPO = ('num_ppo_epochs whiten_rewards kl_coef cliprange vf_coef cliprange_value gamma lam num_mini_batches '
        'local_rollout_forward_batch_size num_sample_generations missing_eos_penalty')
_DPO = 'rpo_alpha ld_alpha discopop_tau loss_weights'
_KTO = 'desirable_weight undesirable_weight'
_GKD = 'sft_alpha lmbda gkd_logits_topk'
_REWARDS = ('reward_funcs reward_weights reward_model_plugin reward_template cosine_min_len_value_wrong '
            'cosine_max_len_value_wrong cosine_min_len_value_correct cosine_max_len_value_correct cosine_max_len '
            'repetition_n_grams repetition_max_penalty soft_max_length soft_cache_length')
_GRPO = ('num_iterations num_generations num_generations_eval epsilon epsilon_high delta sync_ref_model '
         'ref_model_sync_steps ref_model_mixup_alpha dynamic_sample max_resample_times overlong_filter scale_rewards '
         'log_entropy top_entropy_quantile importance_sampling_level tau_pos tau_neg advantage_estimator kl_in_reward '
         'teacher_kl_coef advantage_reweight rlsd_lambda rlsd_reweight_clip_range rlsd_lambda_warmup_steps '
         'rlsd_lambda_decay_steps rlsd_negative_only sdar_loss_coef sdar_gate_beta real_tau fipo_decay_rate '
         'fipo_clip_range fipo_clip_high_only fipo_safety_threshold rollout_importance_sampling_mode '
         'rollout_importance_sampling_threshold log_rollout_offpolicy_metrics off_policy_sequence_mask_delta '
         'chord_sft_dataset chord_sft_per_device_train_batch_size chord_enable_phi_function chord_mu_warmup_steps '
         'chord_mu_decay_steps chord_mu_peak chord_mu_valley multi_turn_scheduler max_turns '
         'completion_length_limit_scope use_gym_env gym_env')
_ROLLOUTS = ('min_p offload_optimizer offload_model wandb_log_unique_prompts generation_batch_size '
             'steps_per_generation log_completions')
_TEACHER = ('teacher_model teacher_adapters teacher_model_type teacher_model_revision teacher_deepspeed '
            'teacher_model_server teacher_tag_key offload_teacher_model')
_REWARD_MODEL = 'reward_model reward_adapters reward_model_type reward_model_revision'
_VLLM = ('vllm_mode vllm_gpu_memory_utilization vllm_tensor_parallel_size vllm_pipeline_parallel_size '
         'vllm_enable_expert_parallel vllm_max_num_seqs vllm_max_model_len vllm_disable_custom_all_reduce '
         'vllm_enforce_eager vllm_limit_mm_per_prompt vllm_max_lora_rank vllm_enable_prefix_caching '
         'vllm_use_async_engine vllm_quantization vllm_reasoning_parser vllm_disable_cascade_attn '
         'vllm_mm_processor_cache_gb vllm_speculative_config vllm_engine_kwargs vllm_data_parallel_size '
         'vllm_enable_lora vllm_server_base_url vllm_server_host vllm_server_port vllm_server_timeout '
         'vllm_server_group_port vllm_server_pass_dataset async_generate sleep_level move_model_batches '
         'enable_flattened_weight_sync')


def rlhf_type(run: Run) -> str:
    """The type that was asked for. (ms-swift turns simpo into cpo with another loss.)"""
    kind, loss = run.args.rlhf_type, run.args.loss_type
    return 'simpo' if kind == 'cpo' and 'simpo' in (loss if isinstance(loss, list) else [loss]) else kind


def _other_than(*types: str) -> Callable[[Run], bool]:
    return lambda run: rlhf_type(run) not in types


def _only(flags: str, *types: str) -> Rule:
    names = ', '.join(types)
    return Rule(
        WARNED,
        flags,
        f'rlhf_type other than {names}',
        f'Read only with --rlhf_type {names}.',
        'Leave it out.',
        '--rlhf_type rm --{}' if 'rm' not in types else '--rlhf_type dpo --{}',
        when=_other_than(*types))


# The groups of flags of `swift sft` whose rules hold here too, but for the names in `RULES[DIFFERENT]`.
SHARED = ('Model', 'Template', 'What trains', 'Several GPUs')
# Rollouts have it.
NOT_SHARED = ('response_prefix', )
DIFFERENT = 'Other than in sft'
# By the titles of docs/compatibility.md.
SORTS: dict[str, list[Sort]] = {
    'Types and models': [
        Sort(WORKS, 'rlhf_type', 'dpo, orpo, simpo, cpo, kto, rm, grpo and gkd; they train text.'),
        Sort(
            WORKS, 'beta label_smoothing cpo_alpha simpo_gamma center_rewards_coefficient max_completion_length '
            f'response_length {_DPO} {_KTO} {_GKD}', 'Losses of the text.'),
        Sort(WORKS, 'ref_model ref_adapters ref_model_type ref_model_revision',
             'A Citrus-V directory or its adapter; its masks are not used.'),
        Sort(WORKS, f'{_REWARD_MODEL} {_TEACHER}', 'They judge or write texts, and may be other models.'),
    ],
    'Rollouts and rewards': [
        Sort(WORKS, f'{_GRPO} {_ROLLOUTS} {_REWARDS}',
             'Rollouts are texts; no mask is drawn, so a reward function cannot score one.'),
    ],
}

RULES: dict[str, list[Rule]] = {
    'Types and models': [
        Rule(
            REFUSED,
            'rlhf_type',
            'ppo',
            "ms-swift's PPO passes tokens without images to the model.",
            'Use --rlhf_type grpo.',
            '--{} ppo',
            when=lambda run: rlhf_type(run) == 'ppo',
            always=True),
        Rule(WARNED, _PPO, '', 'Only --rlhf_type ppo reads it, which is refused.', 'Leave it out.'),
        Rule(WARNED, 'seq_kd', '', 'ms-swift does not implement it.', 'Leave it out.'),
        _only('label_smoothing', 'dpo', 'cpo', 'simpo'),
        _only('cpo_alpha', 'cpo', 'simpo'),
        _only('simpo_gamma', 'simpo'),
        _only('center_rewards_coefficient', 'rm'),
        _only(_DPO, 'dpo'),
        _only(_KTO, 'kto'),
        _only(_GKD, 'gkd'),
        _only(_TEACHER, 'grpo', 'gkd'),
        _only(_REWARD_MODEL, 'grpo'),
        _only(f'{_GRPO} {_REWARDS}', 'grpo'),
        _only(_ROLLOUTS, 'grpo', 'gkd'),
    ],
    'vLLM': [
        Rule(REFUSED, 'use_vllm', '', 'vLLM has no Citrus-V.', 'Leave it out: Transformers writes the rollouts.',
             '--rlhf_type grpo --reward_funcs format --vllm_mode colocate --{} true'),
        Rule(WARNED, _VLLM, '', 'vLLM has no Citrus-V, so it is off.', 'Leave it out.'),
    ],
    DIFFERENT: [
        Rule(REFUSED, 'packing padding_free', '', 'Packs of Citrus-V are made for `swift sft`.', 'Leave it out.'),
        Rule(
            REFUSED,
            'template',
            'of another model',
            'It does not know the rows of Citrus-V.',
            'Leave it out: --model_type citrusv has its own.',
            '--{} qwen2_5_vl',
            when=lambda run: run.args.template != MODEL_TYPE,
            always=True),
        Rule(REFUSED, 'task_type', '', 'The type of preference training decides it.', 'Leave it out.',
             '--{} embedding'),
    ],
}
