"""The flags of quantization and of ms-swift's tuners: which work, and which would be ignored."""
from collections.abc import Callable

from .rule import REFUSED, WARNED, Rule, Run
from .sorts import WORKS, Sort

TITLE = 'Flags of quantization and tuners'
# Given with --tuner_type full, ms-swift ignores them.
_LORA = ('target_modules target_regex modules_to_save lora_rank lora_alpha lora_dropout lora_bias '
         'lora_dtype use_rslora use_dora init_weights')
_LORA_GA = ('lora_ga_batch_size lora_ga_iters lora_ga_max_length lora_ga_direction lora_ga_scale '
            'lora_ga_stable_gamma')
# By tuner type.
_OWN = {
    'adalora': 'adalora_target_r adalora_init_r adalora_tinit adalora_tfinal adalora_deltaT adalora_beta1 '
    'adalora_beta2 adalora_orth_reg_weight',
    'adapter': 'adapter_act adapter_length',
    'boft': 'boft_block_size boft_block_num boft_n_butterfly_factor boft_dropout',
    'fourierft': 'fourier_n_frequency fourier_scaling',
    'llamapro': 'llamapro_num_new_blocks llamapro_num_groups',
    'reft': 'reft_layer_key reft_layers reft_rank reft_intervention_type reft_args',
    'vera': 'vera_rank vera_projection_prng_key vera_dropout vera_d_initial',
}
_BNB = 'bnb_4bit_compute_dtype bnb_4bit_quant_type bnb_4bit_use_double_quant bnb_4bit_quant_storage'


def _without(tuner: str) -> Callable[[Run], bool]:
    # Bone takes its rank from --reft_rank.
    readers = (tuner, 'bone') if tuner == 'reft' else (tuner, )
    return lambda run: run.args.tuner_type not in readers


def _rule(flags: str, values: str, when: Callable[[Run], bool], reason: str, remedy: str, example: str = '') -> Rule:
    return Rule(WARNED, flags, values, reason, remedy, example, when)


SORTS: list[Sort] = [
    Sort(WORKS, 'quant_method quant_bits', 'See [above](#quantization-and-tuner-types).'),
    Sort(WORKS, _BNB, 'With --quant_method bnb.'),
    Sort(WORKS, 'tuner_backend', 'peft, the default.'),
    Sort(WORKS, _LORA, 'LoRA on the MLLM; the projector, SAM2 and the embedding of [SEG] train whole beside it.'),
]

RULES: list[Rule] = [
    Rule(
        REFUSED,
        'tuner_backend',
        'unsloth',
        'Unsloth loads a model of its own, without SAM2.',
        'Leave it out.',
        '--{} unsloth',
        when=lambda run: run.args.tuner_backend == 'unsloth'),
    Rule(REFUSED, 'target_parameters', '', 'It would also match layers of SAM2, which train whole.',
         'Use --target_modules.', '--tuner_type lora --{} x'),
    Rule(REFUSED, 'use_swift_lora', '', "ms-swift's old LoRA does not build on this model.", 'Leave it out.'),
    _rule(_LORA, 'with tuner_type full', lambda run: run.args.tuner_type == 'full', 'Full training has no adapter.',
          'Leave it out, or use --tuner_type lora.', '--tuner_type full --{}'),
    _rule(_LORA_GA, 'without init_weights lora-ga', lambda run: run.args.init_weights != 'lora-ga', 'LoRA-GA is off.',
          'Leave it out.'),
    *(_rule(flags, f'without tuner_type {tuner}', _without(tuner), f'Only --tuner_type {tuner} reads it.',
            'Leave it out.') for tuner, flags in _OWN.items()),
    _rule('quant_bits', 'without quant_method', lambda run: not run.args.quant_method, 'Nothing is quantized.',
          'Add --quant_method, or leave it out.', '--{} 4'),
    Rule(WARNED, 'hqq_axis', '', 'Only HQQ reads it, which is refused.', 'Leave it out.'),
    _rule(_BNB, 'without quant_method bnb', lambda run: run.args.quant_method != 'bnb', 'Only bitsandbytes reads it.',
          'Leave it out.'),
]
