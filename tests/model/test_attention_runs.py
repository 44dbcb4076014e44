"""Packed attention without flash-attn in whole runs: gradients of packs and single rows, and inference afterwards."""
import pytest
from PIL import Image
from support.closeness import assert_same_update
from support.rows import Maker, write_jsonl
from support.swift_run import run_sft
from support.varlen_reference import SlowKernel
from swift.arguments import InferArguments

from swift_citrusv import CitrusVPipeline
from swift_citrusv.constants import TORCH_VARLEN
from swift_citrusv.model import attention
from swift_citrusv.model.attention import AttentionChoice


@pytest.fixture(scope='module')
def dataset(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp('windows')
    maker = Maker(folder / 'images')
    rows = maker.every_kind()
    # Larger than a window of the vision tower, and of different shapes.
    rows += [
        maker.row('<image>Segment it.', 'It: [SEG].', images=[maker.image(168, 224)], masks=[maker.mask(168, 224)]),
        maker.row('<image><image>Compare.', 'They differ.', images=[maker.image(84, 308),
                                                                    maker.image(252, 140)]),
        maker.row('<video>What moves?', 'A vessel.', videos=[[maker.image(168, 140) for _ in range(4)]]),
    ]
    return write_jsonl(folder / 'train.jsonl', rows)


PACKED = {
    'packs': '--packing true --packing_length 420 --gradient_accumulation_steps 15',
    'one pack, checkpointing': '--packing true --packing_length 4096 --gradient_accumulation_steps 1 '
    '--gradient_checkpointing true',
    'padding free': '--padding_free true --per_device_train_batch_size 5 --gradient_accumulation_steps 3',
}


def _run(layout: str, dataset: str, checkpoint: str, output: str):
    return run_sft('--model', checkpoint, '--model_type', 'citrusv', '--dataset', dataset, '--output_dir', output,
                   '--tuner_type', 'full', '--freeze_vit', 'false', '--freeze_aligner', 'false', '--learning_rate',
                   '1e-4', '--num_train_epochs', '1', '--max_length', '2048', '--model_kwargs', '{"pack_images": 32}',
                   *layout.split())


@pytest.fixture(scope='module')
def reference(dataset, tiny_checkpoint, tmp_path_factory):
    """One row at a time, in stock Transformers' sdpa."""
    return _run('--per_device_train_batch_size 1 --gradient_accumulation_steps 15', dataset, tiny_checkpoint,
                str(tmp_path_factory.mktemp('out')))


@pytest.fixture
def chosen(monkeypatch, kernel) -> SlowKernel:
    """As if a run on this machine could take the kernel."""
    monkeypatch.setattr(attention, 'choose_attention',
                        lambda *args, **kwargs: AttentionChoice(TORCH_VARLEN, 'for a test'))
    return kernel


@pytest.mark.parametrize('name', PACKED)
def test_packed_gradient_equals_unpacked(name, dataset, tiny_checkpoint, reference, chosen, tmp_path):
    watch = _run(PACKED[name], dataset, tiny_checkpoint, str(tmp_path))
    assert watch.num_steps == reference.num_steps == 1
    # Both kinds of attention went through the kernel, and packs had borders to keep.
    assert {call['causal'] for call in chosen.calls} == {True, False}
    assert all(len(call['lengths']) > 1 for call in chosen.calls)
    assert_same_update(watch.gradients, reference.gradients)


def test_checkpoint_of_such_a_run_answers_without_cuda(dataset, tiny_checkpoint, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(attention, 'choose_attention',
                      lambda *args, **kwargs: AttentionChoice(TORCH_VARLEN, 'for a test'))
        _run(f'{PACKED["padding free"]} --save_strategy epoch --save_only_model true', dataset, tiny_checkpoint,
             str(tmp_path))
    checkpoint = next(path.parent for path in tmp_path.rglob('args.json') if path.parent.name.startswith('checkpoint'))
    # `swift infer` reads the arguments of the training.
    args = InferArguments(model=str(checkpoint), torch_dtype='float32')
    assert args.attn_impl == TORCH_VARLEN
    image = Image.new('RGB', (168, 224), (90, 0, 90))
    answers = []
    for attn_impl in (TORCH_VARLEN, 'sdpa'):
        args.attn_impl = attn_impl
        model, processor = args.get_model_processor()
        assert model.config.text_config._attn_implementation == attn_impl
        monkeypatch.setattr(attention, 'varlen_attn', None)
        pipe = CitrusVPipeline(model, args.get_template(processor))
        answers.append(pipe(image, 'Segment the cell.', max_tokens=5))
    assert answers[0].text == answers[1].text
