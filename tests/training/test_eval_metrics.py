"""`--eval_metric citrusv_seg` and the like log the scores of `citrusv eval` for the same masks and texts."""
import json
import numpy as np
import pytest
from pathlib import Path
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft
from types import SimpleNamespace
from typing import Any

from swift_citrusv.plugin.arguments import _MAIN_SCORES
from swift_citrusv.scoring.compare import task_class
from swift_citrusv.scoring.evaluate import EvaluationSettings, evaluate
from swift_citrusv.scoring.masks.segmentation import SegmentationTask
from swift_citrusv.settings import SettingError

ARGUMENTS = ('--max_steps 1 --eval_strategy steps --eval_steps 1 --save_steps 1 --max_length 1024 '
             '--gradient_accumulation_steps 1 --dataset_num_proc 1').split()


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    maker = Maker(tmp_path_factory.mktemp('metrics') / 'images')
    rows = [row for row in maker.every_kind() if 'videos' not in row]
    return write_jsonl(tmp_path_factory.mktemp('metrics') / 'train.jsonl', rows), rows


def evaluations(trainer: Any) -> dict[str, float]:
    return next(entry for entry in trainer.logs if any(name.startswith('eval_') for name in entry))


def test_masks_score_as_in_citrusv_eval(files, tiny_checkpoint, tmp_path, monkeypatch):
    """The masks of the run, written to files, are scored again by `evaluate`."""
    from swift_citrusv.rows.masks import encode_rle
    from swift_citrusv.training.loss_plugin import CitrusVLoss
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    score = CitrusVLoss._score_masks

    def noted(self, logits, targets):
        seen.extend(zip((logits > 0).cpu().numpy(), (targets != 0).cpu().numpy()))
        score(self, logits, targets)

    monkeypatch.setattr(CitrusVLoss, '_score_masks', noted)
    dataset, rows = files
    trainer = run_sft('--model', tiny_checkpoint, '--model_type', 'citrusv', '--dataset', dataset, '--val_dataset',
                      dataset, '--output_dir', str(tmp_path / 'out'), '--eval_metric', 'citrusv_seg', *ARGUMENTS)
    logged = evaluations(trainer)
    assert len(seen) == sum(len(row.get('masks', [])) for row in rows) == logged['eval_num_masks']
    assert any(predicted.any() for predicted, _ in seen) and 'eval_token_acc' in logged

    def lines(index: int) -> list[dict[str, Any]]:
        return [{'id': i, 'response': '[SEG]', 'masks': [encode_rle(pair[index])]} for i, pair in enumerate(seen)]

    found = evaluate(SegmentationTask(), write_jsonl(tmp_path / 'ref.jsonl', lines(1)),
                     write_jsonl(tmp_path / 'pred.jsonl', lines(0)), EvaluationSettings(repeats=0))
    for name in ('dice', 'iou', 'ciou', 'precision', 'recall', 'nsd', 'hd95'):
        assert float(logged[f'eval_{name}']) == pytest.approx(found.scores[name].value, rel=1e-3), name


def test_generated_text(files, talkative_checkpoint, tmp_path, monkeypatch):
    """`citrusv eval qa` scores the generated answers of predict.jsonl alike; nothing reads masks, so none is drawn."""
    from swift_citrusv.model.segmenter import Segmenter
    forward = Segmenter.forward

    def only_in_training(self, *args, **kwargs):
        assert self.training
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(Segmenter, 'forward', only_in_training)
    _, rows = files
    # ms-swift's column for --enable_channel_loss reaches the generation.
    dataset = write_jsonl(tmp_path / 'train.jsonl', [{**row, 'channel': 'a'} for row in rows])
    trainer = run_sft('--model', talkative_checkpoint,
                      '--model_type', 'citrusv', '--dataset', dataset, '--val_dataset', dataset, '--output_dir',
                      str(tmp_path / 'out'), '--eval_metric', 'citrusv_qa', '--predict_with_generate', 'true',
                      '--max_new_tokens', '12', *ARGUMENTS)
    logged = evaluations(trainer)
    predicted = next(Path(tmp_path / 'out').rglob('predict.jsonl'))
    lines = [json.loads(line) for line in predicted.read_text(encoding='utf-8').splitlines()]
    assert len(lines) == len(rows) == logged['eval_num_cases']
    assert [line['labels'] for line in lines] == [row['messages'][-1]['content'] for row in rows]
    texts = [{'id': i, **{key: line[key] for key in ('labels', 'response')}} for i, line in enumerate(lines)]
    predictions = write_jsonl(tmp_path / 'pred.jsonl', texts)
    found = evaluate(task_class('qa')(), None, predictions, EvaluationSettings(repeats=0))
    for name in ('accuracy', 'f1', 'recall'):
        assert float(logged[f'eval_{name}']) == pytest.approx(found.scores[name].value, abs=1e-6)
    assert logged['eval_answered'] > 0 and any('[SEG]' in line['response'] for line in lines)


TABLE = '| name | result | reference | unit |\n|---|---|---|---|\n| Hb | 5 | 1-6 | g/L |'
CITED = '<think>The <bbox>{"Part": "lung", "bbox": [1, 2, 30, 40]}</bbox></think><answer>Clear.</answer>'


@pytest.mark.parametrize('name, answer', [('qa', 'Yes.'), ('reports', 'Findings: the lungs are clear.'),
                                          ('documents', TABLE), ('grounding', CITED)])  # yapf: disable
def test_every_text_metric(name, answer, caplog):
    """Right answers score better than wrong ones; rows that cannot be scored are counted."""
    from swift.metrics import eval_metrics_map
    from swift.utils import Serializer
    from transformers.trainer_utils import EvalPrediction

    from swift_citrusv.plugin.register import register
    register()
    args = SimpleNamespace(predict_with_generate=True, eval_metric=f'citrusv_{name}')
    metric = eval_metrics_map[f'citrusv_{name}'](args, None)

    def scored(responses, answers):
        rows = [np.stack([np.pad(part, (0, 4000 - len(part))) for part in map(to_bytes, texts)])
                for texts in (responses, answers)]  # yapf: disable
        return metric.compute_metrics(EvalPrediction(*rows))

    def to_bytes(text):
        return Serializer.to_tensor(text).numpy()

    main = _MAIN_SCORES[f'citrusv_{name}']
    assert main in {measure.name for measure in metric.task.measures}
    perfect = scored([answer] * 2, [answer] * 2)
    assert perfect[main] == pytest.approx(1) and perfect['num_cases'] == 2
    assert scored(['Nothing at all', answer], [answer] * 2)[main] < 0.75
    assert 'skipped' not in caplog.text
    if name == 'documents':
        assert scored([answer] * 2, [answer, 'No table.'])['num_cases'] == 1
        assert '1 of 2 rows have an answer that cannot be scored' in caplog.text and 'row 2' in caplog.text


def test_text_metric_without_generation():
    from swift.metrics import eval_metrics_map

    from swift_citrusv.plugin.register import register
    register()
    args = SimpleNamespace(predict_with_generate=False, eval_metric='citrusv_qa')
    with pytest.raises(SettingError, match='--eval_metric citrusv_qa scores generated answers: add --predict_with_ge'):
        eval_metrics_map['citrusv_qa'](args, None)
