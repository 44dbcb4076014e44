"""The flags of evaluation that are refused or warned of with Citrus-V, and when."""
from ...constants import MODEL_TYPE, SEG_METRIC
from .rule import REFUSED, WARNED, Rule, Run

# Scores of generated answers (`training.eval_metrics`).
GENERATED = tuple(f'{MODEL_TYPE}_{name}' for name in ('qa', 'reports', 'grounding', 'documents'))
# What an evaluation logs with --eval_metric citrusv, and what citrusv_seg adds; more with enable_channel_loss.
_SCORES = ('token_acc', 'seq_acc', 'dice', 'iou', 'num_masks')
_SEG_SCORES = ('ciou', 'precision', 'recall', 'nsd', 'hd95')


def _evaluates(run: Run) -> bool:
    return bool(run.args._val_dataset_exists or run.args.eval_dataset)


def _generates(run: Run) -> bool:
    return bool(run.args.predict_with_generate)


def _unknown_metric(run: Run) -> bool:
    from swift.metrics import eval_metrics_map
    return run.args.eval_metric not in eval_metrics_map


def _unknown_score(run: Run) -> bool:
    name = str(run.args.metric_for_best_model).removeprefix('eval_')
    if 'metric_for_best_model' not in run.given or run.args.eval_metric not in (MODEL_TYPE, SEG_METRIC):
        return False
    known = _SCORES + (_SEG_SCORES if run.args.eval_metric == SEG_METRIC else ())
    return run.args.loss_type == MODEL_TYPE and name not in known and not name.startswith('loss')


_NO_EVALUATION = 'There are no rows to evaluate on, so it would have no effect.'

RULES: list[Rule] = [
    Rule(
        REFUSED,
        'eval_metric',
        'a name that is not registered',
        'Neither ms-swift nor a plugin has it.',
        f'Choose {", ".join([MODEL_TYPE, SEG_METRIC, *GENERATED])}.',
        '--{} dice',
        when=_unknown_metric),
    Rule(
        REFUSED,
        'eval_metric',
        'citrusv and citrusv_seg with predict_with_generate',
        'It scores masks and tokens of a forward pass, which --predict_with_generate leaves out.',
        f'Leave out --predict_with_generate, or score the texts with --eval_metric {", ".join(GENERATED)}.',
        '--predict_with_generate true --{} citrusv_seg',
        when=lambda run: _generates(run) and run.args.eval_metric in (MODEL_TYPE, SEG_METRIC)),
    Rule(
        REFUSED,
        'eval_metric',
        'citrusv_qa and others without predict_with_generate',
        'It scores generated answers.',
        'Add --predict_with_generate true.',
        '--{} citrusv_qa',
        when=lambda run: not _generates(run) and run.args.eval_metric in (*GENERATED, 'nlg')),
    Rule(
        REFUSED,
        'metric_for_best_model',
        'a score that is not logged',
        'The first evaluation would end the run.',
        f'Choose loss, {", ".join(_SCORES)}; or with --eval_metric {SEG_METRIC} {", ".join(_SEG_SCORES)}.',
        '--{} f1',
        when=_unknown_score),
    Rule(
        REFUSED,
        'prediction_loss_only',
        'with predict_with_generate',
        'A generated answer has no loss.',
        'Leave out one of the two.',
        '--predict_with_generate true --eval_metric citrusv_qa --{}',
        when=_generates),
    Rule(REFUSED, 'eval_do_concat_batches', '', 'The metrics of Citrus-V need the batches of an evaluation in one.',
         'Leave it at true.'),
    Rule(REFUSED, 'batch_eval_metrics', '', 'The metrics of Citrus-V need the whole evaluation.', 'Leave it off.'),
    Rule(REFUSED, 'generation_max_length generation_num_beams generation_config', '', 'ms-swift does not read it.',
         'Use --max_new_tokens and --num_beams.'),
    Rule(
        WARNED,
        'max_new_tokens temperature top_k top_p repetition_penalty num_beams',
        'without predict_with_generate',
        'Training generates no answers.',
        'Add --predict_with_generate true, or leave it out.',
        when=lambda run: not _generates(run)),
    Rule(WARNED, 'stream stop_words logprobs top_logprobs structured_outputs_regex', '',
         'It is for `swift infer` and `swift deploy`.', 'Leave it out.'),
    Rule(
        WARNED, 'eval_metric eval_strategy eval_steps eval_delay eval_on_start predict_with_generate '
        'load_best_model_at_end early_stop_interval',
        'without rows to evaluate on',
        _NO_EVALUATION,
        'Add --val_dataset or --split_dataset_ratio.',
        when=lambda run: not _evaluates(run) and run.given.get('eval_strategy') != 'no'),
    Rule(WARNED, 'bf16_full_eval fp16_full_eval', '', 'Evaluations during training keep the type of training.',
         'Leave it out.'),
    Rule(WARNED, 'include_for_metrics', '', 'No metric of Citrus-V reads it.', 'Leave it out.'),
]
