"""The lines at the start of a run tell what is trained, at the optimizer's own rates; contradictions stop the run."""
import copy
import logging
import pytest
import torch
from peft import LoraConfig, get_peft_model
from support.measured_rows import load
from support.rows import Maker
from swift.model.model_arch import get_model_arch
from transformers import TrainingArguments
from types import SimpleNamespace
from typing import Any

from swift_citrusv.model.losses import LossWeights
from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
from swift_citrusv.model.segmenter import freeze_unused_parameters
from swift_citrusv.training.mask_counts import MaskCounts, StreamedMasks
from swift_citrusv.training.optimizer import CitrusVOptimizerCallback
from swift_citrusv.training.start_report import (Trained, find_contradiction, is_said_frozen, learning_rates,
                                                 report_start, seg_embedding, segmentation_trained)

NO_FLAGS: dict[str, Any] = {'freeze_parameters': [], 'freeze_parameters_regex': None, 'freeze_parameters_ratio': 0.}


@pytest.fixture(scope='module')
def loaded(tiny_checkpoint):
    return CitrusVForConditionalGeneration.from_pretrained(tiny_checkpoint)


@pytest.fixture
def model(loaded):
    model = copy.deepcopy(loaded)
    model.model_meta = SimpleNamespace(model_arch=get_model_arch('qwen2_vl'))
    return model


@pytest.fixture
def make_trainer(tmp_path, monkeypatch):
    """Makes what the report reads of a trainer; the optimizer is really made."""

    def make(model, rows=None, seg_lr='8e-5', weights=LossWeights(), **settings):
        args = TrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], learning_rate=3e-5, **settings)
        args.vit_lr = args.aligner_lr = None
        args.tuner_type, args.loss_type = 'full', 'citrusv'
        monkeypatch.setenv('CITRUSV_SEG_LR', seg_lr or '')
        trainer = SimpleNamespace(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=None,
            is_world_process_zero=lambda: True,
            template=SimpleNamespace(_loss_scale='default'),
            compute_loss_func=SimpleNamespace(weights=weights))
        trainer.optimizer_callback = CitrusVOptimizerCallback(args, trainer)
        trainer.optimizer = trainer.optimizer_callback.create_optimizer()
        return trainer

    return make


def _logged(trainer, caplog, **flags) -> list[str]:
    """The lines of the report."""
    caplog.set_level(logging.INFO)
    caplog.clear()
    logger = logging.getLogger('swift')
    logger.addHandler(caplog.handler)
    try:
        report_start(trainer, SimpleNamespace(**{**NO_FLAGS, **flags}))
    finally:
        logger.removeHandler(caplog.handler)
    return [line.strip() for line in caplog.messages[-1].splitlines()]


def _lora(model, **settings):
    meta = model.model_meta
    config = LoraConfig(
        r=4,
        target_modules=r'model\.language_model\..*q_proj',
        modules_to_save=['segmenter', 'seg_projector'],
        **settings)
    wrapped = get_peft_model(model, config)
    wrapped.model_meta = meta
    freeze_unused_parameters(wrapped)
    return wrapped


def test_the_report(model, every_kind, make_trainer, caplog):
    """Each line, from the parameters and rows themselves."""
    size = sum(p.numel() for part in (model.segmenter, model.seg_projector) for p in part.parameters())
    trained = sum(p.numel() for part in (model.segmenter, model.seg_projector) for p in part.parameters()
                  if p.requires_grad)  # yapf: disable
    trainer = make_trainer(model, every_kind, lr_scheduler_type='cosine', warmup_steps=10)
    # A warm-up sets the rate of the first step to 0.
    torch.optim.lr_scheduler.LambdaLR(trainer.optimizer, lambda step: step / 10)
    assert {group['lr'] for group in trainer.optimizer.param_groups} == {0.}
    trainer.eval_dataset = every_kind.select(range(3))
    assert _logged(trainer, caplog) == [
        'this run:', 'training set: rows: 12, with masks: 7, masks: 11',
        'validation set: rows: 3, with masks: 1, masks: 1',
        f'segmentation: trained ({trained:,} of {size:,} parameters), learning rate 8e-05',
        '[SEG] embedding: trained (with all embeddings), learning rate 3e-05',
        'losses: text: 1 x token CE, loss_scale default; masks: 2 x Dice + 1 x BCE'
    ]
    model.model.requires_grad_(False)
    trainer = make_trainer(model, every_kind, weights=LossWeights(0.5, 0., 0.))
    lines = _logged(trainer, caplog)
    assert lines[2] == 'validation set: none' and lines[4] == '[SEG] embedding: frozen'
    assert lines[5] == ('losses: text: 0.5 x token CE, loss_scale default (only logged: nothing that it reaches is '
                        'trained); masks: off (dice_weight 0, bce_weight 0)')
    trainer.compute_loss_func = None
    trainer.args.loss_type = 'cross_entropy'
    assert _logged(trainer, caplog)[5] == "losses: text: ms-swift's own, --loss_type cross_entropy; masks: none"


def test_the_embedding_of_seg(model):
    """Frozen, whole, by LoRA in each of its ways; and a token that is not [SEG]."""
    seg = model.config.seg_token_id
    rates: dict[int, float] = {}

    def of(settings, token=seg):
        return seg_embedding(_lora(copy.deepcopy(model), **settings), token, rates)

    assert seg_embedding(model, seg, rates) == 'trained (with all embeddings)'
    assert of({}) == 'frozen'
    tokens = {'trainable_token_indices': {'embed_tokens': [seg]}}
    assert of(tokens) == 'trained (as one of trainable_token_indices)' and of(tokens, seg - 1) == 'frozen'
    config = {'target_modules': ['embed_tokens']}
    assert seg_embedding(get_peft_model(copy.deepcopy(model), LoraConfig(r=2, **config)), seg,
                         rates) == 'trained (by LoRA on the embeddings)'
    saved = get_peft_model(
        copy.deepcopy(model), LoraConfig(r=2, target_modules=['q_proj'], modules_to_save=['embed_tokens']))
    assert seg_embedding(saved, seg, rates) == 'trained (with all embeddings, by modules_to_save)'


def test_the_rates_are_those_of_the_optimizer(model, make_trainer):
    lora = _lora(model)
    trainer = make_trainer(lora)
    wanted = sum(p.numel() for name, p in lora.named_parameters() if 'seg' in name.split('.')[2] and p.requires_grad)
    found = segmentation_trained(trainer)
    assert (found.trained, found.rates) == (wanted, (8e-5, )) and found.total < 2 * wanted
    # Another optimizer ignores the setting; the report shows what it really has.
    trainer.optimizer = torch.optim.SGD([p for p in lora.parameters() if p.requires_grad], lr=3e-5)
    assert segmentation_trained(trainer).rates == (3e-5, )
    # DeepSpeed's ZeRO holds flat copies in its groups. FSDP shows nothing: what ours was made with counts.
    inner, original = torch.nn.Parameter(torch.zeros(9)), next(iter(lora.parameters()))
    flat = SimpleNamespace(param_groups=[{'params': [inner], 'lr': 5e-5}], bit16_groups=[[original]])
    assert learning_rates(SimpleNamespace(optimizer=flat))[id(original)] == 5e-5
    trainer.optimizer = SimpleNamespace(param_groups=[])
    assert segmentation_trained(trainer).rates == (8e-5, )


SOME, NONE = MaskCounts(12, 7, 11), MaskCounts(12)
TRAINED, FROZEN, STILL = Trained(5, 9, (1e-5, )), Trained(0, 9), Trained(5, 9, (0., ))


def test_contradictions():
    """Each combination of rows, of what is trained, and of what was said."""
    unknown, streamed, none_streamed = MaskCounts(), StreamedMasks(3, 'a.jsonl:3', False), StreamedMasks(9, None, True)
    for rows, trained, said, stops in (
        (SOME, TRAINED, False, False),
        (SOME, FROZEN, False, True),
        (SOME, FROZEN, True, False),
            # A rate of 0 was set by the user.
        (SOME, STILL, False, False),
        (NONE, TRAINED, False, True),
        (NONE, TRAINED, True, True),
        (NONE, FROZEN, False, False),
        (NONE, STILL, False, False),
        (unknown, TRAINED, False, False),
        (unknown, FROZEN, False, False),
        (streamed, TRAINED, False, False),
        (streamed, FROZEN, False, True),
        (none_streamed, TRAINED, False, True),
        (StreamedMasks(9, None, False), TRAINED, False, False),
    ):
        problem = find_contradiction(rows, trained, is_said=said)
        assert (problem is not None) is stops, (rows, trained, said)
        if stops:
            assert '--freeze_parameters seg_projector segmenter' in (problem or ''), problem
    assert 'none of the 12 rows' in (find_contradiction(NONE, TRAINED) or '')
    assert '7 of the 12 rows' in (find_contradiction(SOME, FROZEN) or '')
    assert '--tuner_type lora' in (find_contradiction(SOME, FROZEN, tuner_type='lora_llm') or '')


def test_what_says_that_segmentation_is_frozen(monkeypatch):
    for flags, said in (
        ({}, False),
        ({
            'freeze_parameters': ['model.visual']
        }, False),
        ({
            'freeze_parameters': ['seg_projector', 'segmenter']
        }, True),
        ({
            'freeze_parameters': ['seg']
        }, True),
        ({
            'freeze_parameters': ['segmenter.image_encoder']
        }, True),
        ({
            'freeze_parameters_regex': '.*segmenter.*'
        }, True),
        ({
            'freeze_parameters_ratio': 1.
        }, True),
    ):
        assert is_said_frozen(SimpleNamespace(**{**NO_FLAGS, **flags})) is said, flags
    monkeypatch.setenv('CITRUSV_SEG_LR', '0')
    assert is_said_frozen(SimpleNamespace(**NO_FLAGS)) and is_said_frozen(None)


def test_a_contradiction_stops_after_the_report(model, every_kind, make_trainer, caplog):
    text = every_kind.select([0, 1, 8])
    trainer = make_trainer(model, text)
    with pytest.raises(ValueError, match='Segmentation is trained .*learning rate 8e-05, but none of the 3 rows'):
        _logged(trainer, caplog)
    assert 'training set: rows: 3, with masks: 0, masks: 0' in caplog.text
    for part in (model.segmenter, model.seg_projector):
        part.requires_grad_(False)
    _logged(make_trainer(model, text, seg_lr=None), caplog)
    trainer = make_trainer(model, every_kind, seg_lr=None)
    with pytest.raises(ValueError, match='7 of the 12 rows of --dataset have masks, but nothing of segmentation'):
        _logged(trainer, caplog)
    assert 'segmentation: frozen' in '\n'.join(
        _logged(trainer, caplog, freeze_parameters=['seg_projector', 'segmenter']))


def test_masks_without_a_loss(model, make_template, make_trainer, caplog, tmp_path):
    """--loss_scale last_round takes the loss of the first turn, where the only [SEG]s stand."""
    maker = Maker(tmp_path / 'images')
    first, last = [
        maker.row(*turns, images=[maker.image()], masks=[maker.mask()])
        for turns in (('<image>Segment.', '[SEG].', 'Why?', 'So.'), ('<image>Why?', 'So.', 'Segment.', '[SEG].'))
    ]
    trainer = make_trainer(model, load(tmp_path, [first, first], 'first.jsonl'))
    trainer.template = make_template(loss_scale='last_round')
    with pytest.raises(ValueError, match=r'no mask of --dataset would train \(2 rows .*--loss_scale default'):
        _logged(trainer, caplog)
    assert 'masks: 2 (no [SEG] has a loss in 2 of 2 rows with masks looked at' in caplog.text
    trainer.template = make_template()
    assert _logged(trainer, caplog)[1] == 'training set: rows: 2, with masks: 2, masks: 2'
    trainer = make_trainer(model, load(tmp_path, [first, last], 'both.jsonl'))
    trainer.template = make_template(loss_scale='last_round')
    assert '(no [SEG] has a loss in 1 of 2 rows' in _logged(trainer, caplog)[1]
