"""`--eval_metric citrusv`: Dice and IoU, mean over the masks of the validation set; `citrusv_seg`: more of masks."""
import numpy as np
import torch
from collections.abc import Sequence
from swift.metrics.base import EvalMetrics
from swift.utils import Serializer, get_logger
from torch import Tensor
from transformers.trainer_utils import EvalPrediction
from typing import Any

from ..errors import RowError
from ..scoring.bootstrap import scores_of
from ..scoring.cases import Pair, PredictionError
from ..scoring.compare import task_class
from ..scoring.table import Table
from ..scoring.task import Task
from ..settings import SettingError


class CitrusVMetrics(EvalMetrics):
    """Keeps Transformers from gathering logits: Dice and IoU are summed by `CitrusVLoss` as the batches go by.

    They appear as `eval_dice` and `eval_iou` beside `eval_loss_token`, `eval_loss_dice`, `eval_loss_bce` and
    `eval_num_masks`, with or without this metric, and follow the empty-mask rule of `swift_citrusv.metrics`. With
    `--eval_metric citrusv_seg` `CitrusVLoss` adds what `citrusv eval segmentation` has beside them: `eval_ciou`,
    `eval_precision`, `eval_recall`, and `eval_nsd`, `eval_hd95` in pixels of the targets. This
    metric adds `eval_token_acc`, the share of supervised tokens that are predicted right.
    """

    def compute_metrics(self, eval_prediction: EvalPrediction) -> dict[str, float]:
        correct = np.asarray(eval_prediction.predictions)
        known = correct >= 0
        return {'token_acc': float(correct[known].mean())} if known.any() else {}

    def preprocess_logits_for_metrics(self, logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """[B, K, V] -> [B, K] with 1 right, 0 wrong, -100 not supervised, so that little is gathered."""
        first = logits[0] if isinstance(logits, (list, tuple)) else logits
        predicted = first[:, :-1].argmax(dim=-1)
        targets = labels[:, 1:]
        return torch.where(targets < 0, targets, (predicted == targets).long())


# ---- `--eval_metric citrusv_qa` and the like: generated answers, scored by the tasks of `citrusv eval` while training.

logger = get_logger()


class GeneratedMetrics(EvalMetrics):
    """Scores the answers of `--predict_with_generate true` against those of the rows, text against text.

    Args:
        args, trainer: As ms-swift gives them.
        task: What to score. A row whose answer it cannot score (no table, no cited box) is left out and counted.

    Raises:
        SettingError: Nothing is generated.
    """

    def __init__(self, args: Any, trainer: Any, task: Task) -> None:
        super().__init__(args, trainer)
        self.task = task
        if not args.predict_with_generate:
            raise SettingError(f'--eval_metric {args.eval_metric} scores generated answers: add '
                               '--predict_with_generate true.')

    def compute_metrics(self, eval_prediction: EvalPrediction) -> dict[str, float]:
        responses, answers = ([Serializer.from_tensor(row) for row in rows]
                              for rows in (eval_prediction.predictions, eval_prediction.label_ids))  # yapf: disable
        found, left_out = text_scores(self.task, responses, answers)
        if left_out:
            logger.warning(f'--eval_metric {self.args.eval_metric}: {len(left_out)} of {len(answers)} rows have an '
                           f'answer that cannot be scored, and are left out, e.g. {left_out[0]}')  # yapf: disable
        return found


def text_scores(task: Task, responses: Sequence[str],
                answers: Sequence[str | None]) -> tuple[dict[str, float], list[str]]:
    """Scores texts as `citrusv eval` does, without intervals.

    Args:
        task: What to score.
        responses: Of the model.
        answers: The right ones, as many.

    Returns:
        The scores by name, from 0 to 1 where tables show percentages, and `num_cases`; and why rows were left out, a
        message for each.
    """
    table, left_out = Table(), []
    for number, (response, answer) in enumerate(zip(responses, answers, strict=True), 1):
        pair = Pair(f'row {number}', {'answer': answer}, {'response': response})
        try:
            try:
                cases = task.score(pair)
            except PredictionError:
                # As no answer.
                cases = task.score(Pair(pair.name, pair.reference, None))
        except RowError as e:
            left_out.append(str(e))
            continue
        table.add_row(pair.name, pair.name, {}, cases)
    table.close()
    task.complete(table)
    scores = scores_of(task.measures, table.columns, table.data, np.arange(len(table)), repeats=0)
    found = {name: score.value for name, score in scores.items() if not np.isnan(score.value)}
    return {**found, 'num_cases': float(len(table))}, left_out


def qa_metrics(args: Any, trainer: Any) -> GeneratedMetrics:
    """`--eval_metric citrusv_qa`."""
    return GeneratedMetrics(args, trainer, task_class('qa')())


def report_metrics(args: Any, trainer: Any) -> GeneratedMetrics:
    """`--eval_metric citrusv_reports`."""
    return GeneratedMetrics(args, trainer, task_class('reports')())


def grounding_metrics(args: Any, trainer: Any) -> GeneratedMetrics:
    """`--eval_metric citrusv_grounding`."""
    return GeneratedMetrics(args, trainer, task_class('grounding')())


def document_metrics(args: Any, trainer: Any) -> GeneratedMetrics:
    """`--eval_metric citrusv_documents`: full parsing, by the rules alone."""
    return GeneratedMetrics(args, trainer, task_class('documents')(subtask='parsing'))  # type: ignore[call-arg]
