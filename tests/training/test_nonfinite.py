"""NaN and Inf: the mask loss cannot overflow in half precision, and a non-finite step is skipped or ends the run."""
import json
import math
import numpy as np
import pytest
import torch
from accelerate.utils import DistributedType
from contextlib import nullcontext
from pathlib import Path
from support.distributed.launcher import Launcher, RankError
from support.row_names import bare
from support.rows import Maker, box_mask, rle, write_jsonl
from support.swift_run import Watch, run_sft
from types import SimpleNamespace
from typing import Any

from swift_citrusv.model.losses import MAX_LOGIT, mask_losses, token_loss
from swift_citrusv.training import loss_plugin as loss_module
from swift_citrusv.training.nonfinite import MAX_CONSECUTIVE, STEPS_FILE, NonFiniteError, StepGuard

# ---- the mask loss


@pytest.mark.parametrize('value', [1e4, 3e4, math.inf])
def test_mask_losses_at_extreme_logits(value):
    """Whole masks of one logit, right and wrong, and both mixed, at the size of a real mask."""
    side = 256
    mixed = torch.where(torch.arange(side * side).view(side, side) % 2 == 0, value, -value)
    values = torch.stack([torch.full((side, side), value), torch.full((side, side), -value), mixed])
    targets = (torch.zeros(3, side, side), torch.ones(3, side, side), (mixed > 0).float().repeat(3, 1, 1))
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        for i, target in enumerate(targets):
            logits = values.to(dtype, copy=True).requires_grad_()
            dice, bce = mask_losses(logits, target)
            (2 * dice + bce).sum().backward()
            assert dice.isfinite().all() and bce.isfinite().all(), (dtype, i)
            assert logits.grad.isfinite().all(), (dtype, i)
            # In float64 with numpy: a wrong pixel costs its logit, a right one nothing.
            clamped = np.clip(values.to(dtype).double().numpy(), -MAX_LOGIT, MAX_LOGIT)
            wrong = np.where((clamped > 0) != (target.numpy() > 0), np.abs(clamped), 0.)
            assert bce.tolist() == pytest.approx(wrong.mean((1, 2)).tolist(), rel=1e-4), (dtype, i)


def test_logits_of_float16_are_not_clamped():
    assert torch.finfo(torch.float16).max < MAX_LOGIT
    logits = torch.linspace(-6e4, 6e4, 64).view(1, 8, 8)
    targets = torch.eye(8)[None]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)
    assert float(mask_losses(logits, targets)[1]) == float(expected)


def test_a_nan_logit_makes_a_nan_loss():
    logits = torch.zeros(1, 4, 4)
    logits[0, 1, 2] = math.nan
    assert all(loss.isnan().all() for loss in mask_losses(logits, torch.ones(1, 4, 4)))


# ---- runs

# With this weight, the Dice loss of two masks overflows; rows of text are not affected.
OVERFLOW = '"dice_weight": 3e38'
BAD = 2
# A run on rows without masks does not start with segmentation trained.
FROZEN = ('--freeze_parameters', 'seg_projector', 'segmenter')


def text_rows(num_rows: int) -> list[dict[str, Any]]:
    maker = Maker(Path('unused'))
    return [maker.row(f'What is number {i}?', f'It is the number {i} of all.') for i in range(num_rows)]


def bad_row(folder: Path) -> dict[str, Any]:
    maker = Maker(folder)
    masks = [rle(box_mask((84, 84), box)) for box in ((5, 5, 40, 40), (30, 20, 80, 60))]
    return maker.row('<image>Segment both.', 'A [SEG] and B [SEG].', images=[maker.image()], masks=masks)


@pytest.fixture(scope='module')
def files(tmp_path_factory) -> dict[str, str]:
    """The same rows of text, with and without a bad one at line `BAD` + 1."""
    folder = tmp_path_factory.mktemp('numbers')
    rows = text_rows(5)
    (folder / 'good').mkdir()
    return {
        'bad': write_jsonl(folder / 'train.jsonl', [*rows[:BAD], bad_row(folder / 'images'), *rows[BAD:]]),
        'good': write_jsonl(folder / 'good' / 'train.jsonl', rows),
    }


def train(checkpoint: str, dataset: str, output: Path, settings: str, *arguments: str) -> Watch:
    return run_sft('--model', checkpoint, '--model_type', 'citrusv', '--dataset', dataset, '--output_dir', str(output),
                   '--tuner_type', 'full', '--num_train_epochs', '1', '--per_device_train_batch_size', '1',
                   '--gradient_accumulation_steps', '1', '--learning_rate', '1e-3', '--dataset_num_proc', '1',
                   '--weight_decay', '0.1', '--model_kwargs', f'{{{settings}}}', *arguments)


def noted(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / STEPS_FILE).read_text(encoding='utf-8').splitlines()]


@pytest.mark.parametrize('batching, accompanied', [
    (('--per_device_train_batch_size', '2'), [4]),
    (('--packing', 'true', '--packing_length', '1024'), [1, 2, 4, 5, 6]),
    (('--gradient_accumulation_steps', '3'), []),
])
def test_stop_names_the_rows_of_the_batch(batching, accompanied, files, tiny_checkpoint, tmp_path):
    with pytest.raises(NonFiniteError, match=r'step \d: the loss is (inf|nan) in the batch of .*"nonfinite": "skip"'):
        train(tiny_checkpoint, files['bad'], tmp_path, OVERFLOW, *batching)
    step, = noted(tmp_path)
    batch, = (batch for batch in step['batches'] if not math.isfinite(float(batch['loss'])))
    assert sorted(map(bare, batch['rows'])) == [f'train.jsonl:{line}' for line in sorted([BAD + 1, *accompanied])]
    assert not step['skipped']


def test_a_skipped_step_leaves_no_trace(files, tiny_checkpoint, tmp_path, monkeypatch):
    """The weights equal, bit by bit, those without the bad row: no decay, no moment, no step of the schedule."""
    schedule = (*FROZEN, '--lr_scheduler_type', 'constant_with_warmup', '--warmup_steps', '4', '--max_grad_norm', '1')
    good = train(tiny_checkpoint, files['good'], tmp_path / 'good', OVERFLOW, *schedule)
    skipped = train(tiny_checkpoint, files['bad'], tmp_path / 'bad', f'{OVERFLOW}, "nonfinite": "skip"', *schedule)
    assert good.num_steps == 5 and skipped.num_steps == 6
    moved = [name for name, value in good.before.items() if not torch.equal(value, good.after[name])]
    assert len(moved) > 20
    for name, value in good.after.items():
        assert torch.equal(skipped.after[name], value), name
    assert [log.get('skipped_steps') for log in skipped.logs if 'loss' in log] == [None, None, 1, None, None, None]
    rates = [[log['learning_rate'] for log in watch.logs if 'loss' in log] for watch in (good, skipped)]
    # The logged rate is that of the next step.
    assert rates[0][BAD - 1] < rates[0][BAD] and rates[1] == [*rates[0][:BAD], rates[0][BAD - 1], *rates[0][BAD:]]
    step, = noted(tmp_path / 'bad')
    assert step['step'] == BAD + 1 and step['skipped'] and list(map(
        bare, step['batches'][0]['rows'])) == [f'train.jsonl:{BAD + 1}']
    assert not (tmp_path / 'good' / STEPS_FILE).exists()
    # The batch is not part of the logged means.
    assert all(math.isfinite(log['loss_token']) for log in skipped.logs if 'loss_token' in log)


def test_a_gradient_that_overflows_behind_a_finite_loss(files, tiny_checkpoint, tmp_path, monkeypatch):
    """With --max_grad_norm 0, without clipping; all rows of the step are named."""
    calls = 0

    def overflowing(logits, labels):
        nonlocal calls
        tokens = token_loss(logits, labels)
        if calls == 1:
            tokens.register_hook(lambda gradient: gradient * math.inf)
        calls += 1
        return tokens

    monkeypatch.setattr(loss_module, 'token_loss', overflowing)
    with pytest.raises(NonFiniteError) as error:
        train(tiny_checkpoint, files['good'], tmp_path, '', '--gradient_accumulation_steps', '2', *FROZEN)
    assert 'every loss is finite, but the gradient norm is' in str(error.value)
    assert 'the rows of the step are good/train.jsonl:1, good/train.jsonl:2.' in str(error.value)


# ---- two ranks


@pytest.fixture(scope='module')
def launcher(tmp_path_factory) -> Launcher:
    return Launcher(tmp_path_factory.mktemp('ranks'))


@pytest.mark.parametrize('engine', [(), ('--deepspeed', 'zero2')], ids=['ddp', 'zero2'])
def test_all_ranks_skip_or_stop_together(engine, launcher, tiny_checkpoint, tmp_path):
    """The bad row is on rank 1; both ranks skip its step, and the weights are as if the step had no rows."""
    rows = text_rows(6)
    bad = write_jsonl(tmp_path / 'bad.jsonl', [*rows[:3], bad_row(tmp_path / 'images'), *rows[4:]])
    good = write_jsonl(tmp_path / 'good.jsonl', [*rows[:2], *rows[4:]])
    common = ['--model', tiny_checkpoint, '--tuner_type', 'full', '--learning_rate', '1e-3', '--weight_decay', '0.1']
    common += ['--gradient_accumulation_steps', '1', *FROZEN, *engine, '--model_kwargs']
    without = launcher.run(2, [*common, f'{{{OVERFLOW}}}', '--dataset', good])
    skipped = launcher.run(2, [*common, f'{{{OVERFLOW}, "nonfinite": "skip"}}', '--dataset', bad])
    assert len(set(skipped.digests)) == 1 and set(skipped.digests) == set(without.digests)
    assert [log.get('skipped_steps') for log in skipped.steps] == [None, 1, None]
    step, = noted(launcher.folder / f'run_{launcher.num_runs - 1}' / 'output')
    assert step['step'] == 2 and step['skipped']
    assert [(batch['rank'], batch['loss'], list(map(bare, batch['rows']))) for batch in step['batches']
            if not math.isfinite(float(batch['loss']))] == [(1, 'inf', ['bad.jsonl:4'])]
    if engine:
        return
    with pytest.raises(RankError) as error:
        launcher.run(2, [*common, f'{{{OVERFLOW}}}', '--dataset', bad])
    assert f'NonFiniteError: step 2: the loss is inf in the batch of {tmp_path.name}/bad.jsonl:4.' in str(error.value)
    assert 'no output from any rank' not in str(error.value)


# ---- the guard alone


class FakeTrainer:
    """What `StepGuard` reads of a trainer, for engines that cannot run here."""

    def __init__(self, folder: Path, scaler: Any = None, deepspeed: bool = False, fp16: bool = False) -> None:
        self.weight = torch.nn.Parameter(torch.ones(3))
        self.optimizer = torch.optim.AdamW([self.weight], lr=0.1, weight_decay=0.5)
        self.accelerator = SimpleNamespace(
            scaler=scaler,
            distributed_type=DistributedType.DEEPSPEED if deepspeed else DistributedType.NO,
            optimizer_step_was_skipped=False)
        self.args = SimpleNamespace(world_size=1, process_index=0, device='cpu', output_dir=str(folder), fp16=fp16)
        self.state = SimpleNamespace(global_step=0)
        self.custom_metrics: dict[str, dict[str, Any]] = {'train': {}}

    def is_world_process_zero(self) -> bool:
        return True

    def step(self, guard: StepGuard, factor: float, gradient: float = 1.) -> None:
        loss = guard.watch((self.weight * factor).sum(), [f'a.jsonl:{self.state.global_step + 1}'])
        loss.backward()
        self.weight.grad.mul_(gradient)
        guard.end_step(self, self.weight.grad.norm())
        self.optimizer.step()
        self.weight.grad = None
        self.state.global_step += 1


def test_ten_skipped_steps_in_a_row_end_the_run(tmp_path):
    guard, trainer = StepGuard(skip=True), FakeTrainer(tmp_path)
    for _ in range(MAX_CONSECUTIVE - 1):
        trainer.step(guard, math.inf)
    trainer.step(guard, 1.)
    before = trainer.weight.detach().clone()
    for _ in range(MAX_CONSECUTIVE - 1):
        trainer.step(guard, math.nan)
    assert torch.equal(trainer.weight, before) and guard.num_skipped == 2 * MAX_CONSECUTIVE - 2
    with pytest.raises(NonFiniteError, match=f'a.jsonl:20.*the {MAX_CONSECUTIVE}th skipped step in a row'):
        trainer.step(guard, math.nan)
    assert len(noted(tmp_path)) == 2 * MAX_CONSECUTIVE - 1


def test_an_infinite_loss_makes_a_nan_gradient():
    """The gradient reduction informs the other ranks, even where the gradient itself would be finite."""
    weight = torch.ones(3, requires_grad=True)
    loss = weight.sum() + math.inf
    assert torch.autograd.grad(loss, weight, retain_graph=True)[0].isfinite().all()
    StepGuard(skip=True).watch(loss, []).backward()
    assert weight.grad.isnan().all()


def test_a_finite_loss_is_not_changed():
    loss = torch.tensor(0.1, requires_grad=True)
    assert StepGuard(skip=True).watch(loss, []) is loss


@pytest.mark.parametrize('skip', [True, False])
def test_a_gradient_scaler_handles_its_own_overflows(skip, tmp_path):
    """In float16, an Inf in the gradient lowers the scale; a non-finite loss is still an error."""
    guard = StepGuard(skip)
    for trainer in (FakeTrainer(tmp_path, scaler=object()), FakeTrainer(tmp_path, deepspeed=True, fp16=True)):
        trainer.accelerator.optimizer_step_was_skipped = True
        trainer.step(guard, 1., gradient=math.inf)
        assert guard.num_skipped == 0
    with nullcontext() if skip else pytest.raises(NonFiniteError):
        FakeTrainer(tmp_path, scaler=object()).step(guard, math.inf)
    assert guard.num_skipped == skip


def test_deepspeed_drops_the_step_or_the_run_ends(tmp_path):
    guard, trainer = StepGuard(skip=True), FakeTrainer(tmp_path, deepspeed=True)
    trainer.accelerator.optimizer_step_was_skipped = True
    trainer.step(guard, 1., gradient=math.inf)
    assert guard.num_skipped == 1
    trainer.accelerator.optimizer_step_was_skipped = False
    with pytest.raises(NonFiniteError, match='has already taken the step.*use ZeRO-1, 2 or 3'):
        trainer.step(guard, math.nan)


def test_the_message_shortens_many_rows_and_the_file_has_all(tmp_path):
    guard, trainer = StepGuard(skip=False), FakeTrainer(tmp_path)
    rows = [f'a.jsonl:{line}' for line in range(1, 51)]
    guard.watch(torch.tensor(math.nan), rows)
    with pytest.raises(NonFiniteError, match=f'a.jsonl:20 and 30 more rows \\(see {STEPS_FILE}\\)'):
        guard.end_step(trainer, torch.tensor(1.))
    assert noted(tmp_path)[0]['batches'][0]['rows'] == rows
