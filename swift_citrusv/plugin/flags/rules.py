"""The flags of `swift sft` that are refused or warned of with Citrus-V, and when."""
from ...constants import MODEL_TYPE, SEGMENTATION_MODULES
from . import evaluation_rules, loss_rules
from .rule import REFUSED, WARNED, Rule, Run


def _is_full(run: Run) -> bool:
    return run.args.tuner_type == 'full'


def _unknown_callback(run: Run) -> bool:
    from swift.callbacks import callbacks_map
    return any(name not in callbacks_map for name in run.args.callbacks)


def _has_targets(run: Run) -> bool:
    targets = run.given.get('target_modules', ['all-linear'])
    return not _is_full(run) and ('target_regex' in run.given or 'all-linear' not in targets)


def _spreads_over_gpus(run: Run) -> bool:
    from swift.utils import is_mp
    return not run.args.use_cpu and is_mp()


def _freezes_other_parts(run: Run) -> bool:
    names = run.given.get('freeze_parameters') or ()
    return not _is_full(run) and not all(str(name).startswith(SEGMENTATION_MODULES) for name in names)


_FULL_ONLY = 'ms-swift reads it with --tuner_type full only, so it would have no effect.'
_LORA_REMEDY = 'Choose what LoRA adapts with --target_modules, --freeze_llm, --freeze_vit and --freeze_aligner.'
_OTHER_TASKS = 'It is for other task types than causal_lm.'

# Of `swift rlhf` too.
ONE_PROCESS_A_GPU = Rule(
    REFUSED,
    'device_map',
    'one process that sees several GPUs',
    'ms-swift would spread the model over the GPUs, and mask inputs and targets would stay behind.',
    'Start one process a GPU with NPROC_PER_NODE=<number of GPUs>, or show it one with CUDA_VISIBLE_DEVICES=0.',
    when=_spreads_over_gpus,
    always=True)

RULES: dict[str, list[Rule]] = {
    'Model': [
        Rule(
            REFUSED,
            'task_type',
            'other than causal_lm',
            'Only causal_lm trains text and masks.',
            'Leave it out.',
            '--{} embedding',
            when=lambda run: run.args.task_type != 'causal_lm',
            always=True),
        ONE_PROCESS_A_GPU,
        Rule(WARNED, 'max_memory', '', 'Citrus-V runs on one device.', 'Leave it out.'),
        Rule(WARNED, 'num_labels problem_type mrl_dims', '', _OTHER_TASKS, 'Leave it out.'),
        Rule(WARNED, 'experts_impl router_aux_loss_coef', '', 'Qwen2.5-VL has no experts.', 'Leave it out.'),
    ],
    'Rows': [
        Rule(WARNED, 'decision_drop_instructions decision_subsample_options decision_state_as_text '
             'decision_shuffle_fields', '', 'It is for --task_type decision.', 'Leave it out.'),
        Rule(
            WARNED,
            'shuffle_buffer_size',
            'without streaming',
            'Only streams are shuffled in a buffer.',
            'Add --streaming true, or leave it out.',
            when=lambda run: not run.args.streaming),
        Rule(
            WARNED,
            'stopping_strategy',
            'without interleave_prob',
            'Only mixed datasets stop at one of them.',
            'Add --interleave_prob, or leave it out.',
            when=lambda run: not run.args.interleave_prob),
    ],
    'Template': [
        Rule(
            REFUSED,
            'template',
            'of another model',
            'It makes no mask targets, so no mask would train.',
            'Leave it out: --model_type citrusv has its own.',
            '--{} qwen2_5_vl',
            when=lambda run: run.args.template != MODEL_TYPE,
            always=True),
        Rule(REFUSED, 'template_backend', 'jinja',
             'It cannot tell answers from questions, so the questions would train too.', 'Leave it out in training.',
             '--{} jinja'),
        Rule(
            REFUSED,
            'truncation_strategy',
            'split without packing',
            'It cuts rows into chunks for packs.',
            'Add --packing true, or choose another strategy.',
            '--{} split',
            when=lambda run: run.args.truncation_strategy == 'split' and not run.args.packing,
            always=True),
        Rule(REFUSED, 'sequence_parallel_size', 'above 1',
             'It splits sequences, and would separate masks from their [SEG].', 'Leave it at 1.', '--{} 2'),
        Rule(
            REFUSED,
            'packing_strategy',
            'sequential',
            'Packs of Citrus-V are filled by best fit, within a budget of images too.',
            'Leave it at binpack.',
            '--packing true --{}',
            when=lambda run: run.args.packing),
        Rule(
            WARNED,
            'packing_length packing_strategy',
            'without packing',
            'Nothing is packed.',
            'Add --packing true, or leave it out.',
            when=lambda run: not run.args.packing),
        Rule(WARNED, 'response_prefix', '', 'It begins generated answers only.', 'Leave it out in training.'),
        Rule(WARNED, 'packing_num_proc', '', 'Packs of Citrus-V are planned in one process, in seconds.',
             'Leave it out.'),
    ],
    'What trains': [
        Rule(
            REFUSED,
            'freeze_parameters',
            'with a tuner, other than segmenter and seg_projector',
            _FULL_ONLY,
            _LORA_REMEDY,
            '--tuner_type lora --{}',
            when=_freezes_other_parts),
        Rule(
            REFUSED,
            'freeze_parameters_regex freeze_parameters_ratio trainable_parameters trainable_parameters_regex',
            'with a tuner',
            _FULL_ONLY,
            _LORA_REMEDY,
            '--tuner_type lora --{}',
            when=lambda run: not _is_full(run)),
        Rule(
            REFUSED,
            'freeze_llm',
            'with target_modules other than all-linear',
            '--target_modules alone decides what LoRA adapts.',
            'Leave out one of the two.',
            '--tuner_type lora --target_modules q_proj --{}',
            when=_has_targets),
        Rule(
            WARNED,
            'freeze_vit freeze_aligner',
            'with target_modules other than all-linear',
            '--target_modules alone decides what LoRA adapts.',
            'Leave out one of the two.',
            '--tuner_type lora --target_modules q_proj --{}',
            when=_has_targets),
        Rule(
            WARNED,
            'lisa_step_interval',
            'without lisa_activated_layers',
            'LISA is off.',
            'Add --lisa_activated_layers, or leave it out.',
            when=lambda run: not run.args.lisa_activated_layers),
    ],
    'Loss and optimizer':
    loss_rules.RULES,
    'Steps and batches': [
        Rule(
            REFUSED,
            'group_by_length',
            'with packing',
            'It has no effect on packs, which all have the same length.',
            'Leave it off.',
            '--packing true --{}',
            when=lambda run: run.args.packing),
        Rule(
            WARNED,
            'group_by_length',
            'with streaming',
            'A stream is read in its own order.',
            'Leave it off.',
            '--streaming true --max_steps 1 --{}',
            when=lambda run: run.args.streaming and not run.args.packing),
        Rule(WARNED, 'train_sampling_strategy sortish_sampler length_column_name', '',
             "ms-swift has its own sampler and does not read it.", 'Use --group_by_length.'),
        Rule(WARNED, 'dataloader_in_order', '', 'ms-swift does not read it in training.', 'Leave it out.'),
        Rule(WARNED, 'label_names', '', 'A batch of Citrus-V has its labels under their usual name.', 'Leave it out.'),
        Rule(WARNED, 'torch_compile torch_compile_backend torch_compile_mode', '',
             'The number of masks and images changes from batch to batch, and each change compiles the model again.',
             'Leave it out.'),
        Rule(WARNED, 'do_train do_eval do_predict', '', 'The command of ms-swift decides what is done.',
             'Leave it out.'),
    ],
    'Evaluation':
    evaluation_rules.RULES,
    'Checkpoints and logs': [
        Rule(
            WARNED,
            'resume_only_model ignore_data_skip restore_callback_states_from_checkpoint',
            'without resume_from_checkpoint',
            'The run does not resume.',
            'Add --resume_from_checkpoint, or leave it out.',
            when=lambda run: not run.args.resume_from_checkpoint),
        Rule(
            REFUSED,
            'callbacks',
            'a name that is not registered',
            'Neither ms-swift nor a plugin has it.',
            'Leave it out.',
            '--{} early',
            when=_unknown_callback),
        Rule(WARNED, 'use_flash_ckpt', '', 'DLRover writes these checkpoints, and they are not sealed.',
             'Leave it out to resume safely.'),
    ],
    'Several GPUs': [
        Rule(REFUSED, 'deepspeed_autotp_size parallelism_config', '',
             'It splits weights or sequences over GPUs, and Citrus-V has no such plan.',
             'Use --deepspeed zero2 or zero3.', '--{}'),
        Rule(REFUSED, 'fsdp_config', '', 'ms-swift takes it from --fsdp.',
             'Give --fsdp a JSON file with the key fsdp_config.'),
        Rule(REFUSED, 'ddp_static_graph', '', 'Batches with and without masks have different graphs.', 'Leave it out.'),
        Rule(
            WARNED,
            'zero_hpz_partition_size',
            'without deepspeed',
            'DeepSpeed is off.',
            'Add --deepspeed zero3, or leave it out.',
            when=lambda run: not run.args.deepspeed),
        Rule(WARNED, 'use_ray ray_exp_name device_groups', '', 'Nobody has run Citrus-V under Ray.',
             'Start the ranks with NPROC_PER_NODE.'),
    ],
}
