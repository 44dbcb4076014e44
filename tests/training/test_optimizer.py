"""Every trainable parameter has exactly one learning rate, and no setting is silently ignored."""
import copy
import logging
import math
import pytest
import re
import torch
from peft import LoraConfig, get_peft_model
from swift.model.model_arch import get_model_arch
from transformers import TrainingArguments
from types import SimpleNamespace

from swift_citrusv.model.modeling import CitrusVForConditionalGeneration
from swift_citrusv.model.segmenter import freeze_unused_parameters
from swift_citrusv.training.optimizer import CitrusVOptimizerCallback, ModelPart, split_parameters, training_table

# Part -> prefix of its parameters' names, by the layout of the model.
PARTS = {
    'aligner': 'model.visual.merger.',
    'ViT': 'model.visual.',
    'segmentation': 'seg',
    'LLM': 'model.language_model.',
}


@pytest.fixture(scope='module')
def loaded(tiny_checkpoint):
    return CitrusVForConditionalGeneration.from_pretrained(tiny_checkpoint)


@pytest.fixture
def model(loaded):
    model = copy.deepcopy(loaded)
    # ms-swift sets it.
    model.model_meta = SimpleNamespace(model_arch=get_model_arch('qwen2_vl'))
    return model


@pytest.fixture
def make_callback(tmp_path, monkeypatch):
    """Makes callbacks, by default with the learning rates of table 4."""

    def make(model, seg_lr='8e-5', vit_lr=2e-6, aligner_lr=1e-5, **settings):
        args = TrainingArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to=[], learning_rate=3e-5, weight_decay=0.1, **settings)
        args.vit_lr, args.aligner_lr = vit_lr, aligner_lr
        if seg_lr is None:
            monkeypatch.delenv('CITRUSV_SEG_LR', raising=False)
        else:
            monkeypatch.setenv('CITRUSV_SEG_LR', seg_lr)
        trainer = SimpleNamespace(model=model, is_world_process_zero=lambda: True)
        return CitrusVOptimizerCallback(args, trainer)

    return make


def _part_of(name: str) -> str:
    plain = name.removeprefix('base_model.model.')
    return next(part for part, prefix in PARTS.items() if plain.startswith(prefix))


def _check_groups(model, optimizer, rates: dict[str, float]) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    seen = []
    for group in optimizer.param_groups:
        for parameter in group['params']:
            name = names[id(parameter)]
            seen.append(name)
            assert group['lr'] == rates[_part_of(name)], name
    trainable = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert sorted(seen) == sorted(trainable) and len(seen) == len(set(seen)) > 0


RATES = {'aligner': 1e-5, 'ViT': 2e-6, 'segmentation': 8e-5, 'LLM': 3e-5}


def test_each_parameter_is_in_one_group_with_its_rate(model, make_callback):
    optimizer = make_callback(model).create_optimizer()
    assert isinstance(optimizer, torch.optim.AdamW)
    _check_groups(model, optimizer, RATES)
    assert len(optimizer.param_groups) == 8


def test_a_rate_defaults_to_the_learning_rate(model, make_callback):
    optimizer = make_callback(model, seg_lr=None, vit_lr=None, aligner_lr=None).create_optimizer()
    _check_groups(model, optimizer, dict.fromkeys(RATES, 3e-5))


def test_a_rate_of_zero_is_a_rate(model, make_callback):
    optimizer = make_callback(model, seg_lr='0', vit_lr=0.).create_optimizer()
    _check_groups(model, optimizer, RATES | {'ViT': 0., 'segmentation': 0.})


def test_the_model_argument_takes_precedence(model, loaded, make_callback):
    callback = make_callback(loaded)
    _check_groups(model, callback.create_optimizer(model), RATES)


def test_no_weight_decay_on_biases_and_norms(model, make_callback):
    optimizer = make_callback(model).create_optimizer()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay = {names[id(p)]: group['weight_decay'] for group in optimizer.param_groups for p in group['params']}
    norms = {f'{name}.weight' for name, module in model.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    for name, value in decay.items():
        # Qwen's norms are its own RMSNorm classes, recognised by name.
        no_decay = name.endswith('bias') or name in norms or re.search(r'(norm\d?|ln_q|layernorm)\.weight$', name)
        if not re.search(r'visual.*(norm\d|ln_q)', name):  # up to Transformers' own rule
            assert value == (0. if no_decay else 0.1), name
    assert set(decay.values()) == {0., 0.1}


def test_a_frozen_part_has_no_group(model, make_callback):
    model.model.requires_grad_(False)
    callback = make_callback(model, vit_lr=None, aligner_lr=None)
    optimizer = callback.create_optimizer()
    _check_groups(model, optimizer, RATES)
    assert len(optimizer.param_groups) == 2 and all(group['lr'] == 8e-5 for group in optimizer.param_groups)


@pytest.mark.parametrize('setting, flag, remedy', [
    ({'aligner_lr': 1e-5}, '--aligner_lr=1e-05', '--freeze_aligner false'),
    ({'vit_lr': 0.}, '--vit_lr=0', '--freeze_vit false'),
    ({'seg_lr': '8e-5'}, 'seg_lr=8e-05', '--freeze_parameters'),
])  # yapf: disable
def test_a_rate_for_a_frozen_part(model, make_callback, setting, flag, remedy):
    model.model.visual.requires_grad_(False)
    model.segmenter.requires_grad_(False)
    model.seg_projector.requires_grad_(False)
    callback = make_callback(model, **({'seg_lr': None, 'vit_lr': None, 'aligner_lr': None} | setting))
    with pytest.raises(ValueError, match='has no trainable parameter') as error:
        callback.create_optimizer()
    assert flag in str(error.value) and remedy in str(error.value) and '--freeze_segmentation' not in str(error.value)


def test_a_parameter_without_a_part(model, make_callback):
    model.new_head = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match='2 trainable parameters.*new_head.weight, new_head.bias.*--freeze_parameters'):
        make_callback(model).create_optimizer()
    model.new_head.requires_grad_(False)
    _check_groups(model, make_callback(model).create_optimizer(), RATES)


def test_nothing_to_train(model, make_callback):
    model.requires_grad_(False)
    with pytest.raises(ValueError, match='No parameter is trainable.*--freeze_llm'):
        make_callback(model, seg_lr=None, vit_lr=None, aligner_lr=None).create_optimizer()


# ---- PEFT


@pytest.fixture
def lora(model):
    meta = model.model_meta
    config = LoraConfig(
        r=4,
        target_modules=r'model\.(language_model|visual)\..*(q_proj|qkv|mlp\.0)',
        modules_to_save=['segmenter', 'seg_projector'])
    wrapped = get_peft_model(model, config)
    wrapped.model_meta = meta
    freeze_unused_parameters(wrapped)
    return wrapped


def test_lora(lora, make_callback):
    parts = make_callback(lora).parts(lora)
    split_parameters(lora, parts)
    for part in parts:
        names = [name for name, _ in part.parameters]
        assert names and all(_part_of(name) == part.name for name in names)
        wanted = '.modules_to_save.default.' if part.name == 'segmentation' else '.lora_'
        assert all(wanted in name for name in names), part.name
    _check_groups(lora, make_callback(lora).create_optimizer(), RATES)


def test_lora_trains_what_the_mask_loss_reaches(lora, loaded):
    prefix = 'base_model.model.segmenter.modules_to_save.default.'
    trained = {
        name.removeprefix(prefix)
        for name, p in lora.named_parameters() if name.startswith(prefix) and p.requires_grad
    }
    assert trained == {name for name, _ in loaded.segmenter.named_parameters() if loaded.segmenter.uses_parameter(name)}
    # The wrapped model still predicts masks, and every trained parameter gets a gradient.
    inputs = torch.arange(20, 30)[None]
    index = torch.tensor([[7]])
    images = torch.randint(0, 256, (1, 1, 3, 256, 256), dtype=torch.uint8)
    lora.train()
    output = lora(
        input_ids=inputs, g_pixel_values=images, mask_image_index=torch.zeros_like(index), mask_token_index=index)
    (output.mask_logits.square().mean() + output.logits.square().mean()).backward()
    without = [name for name, p in lora.named_parameters() if p.requires_grad and p.grad is None]
    assert all('.visual.' in name for name in without)  # no image for the MLLM in this batch


def test_lora_counts_each_parameter_once(lora, loaded, make_callback):
    parts = {part.name: part for part in make_callback(lora).parts(lora)}
    split_parameters(lora, list(parts.values()))
    wanted = sum(p.numel() for module in (loaded.segmenter, loaded.seg_projector) for p in module.parameters())
    assert parts['segmentation'].num_total == wanted


# ---- the table in the log


def _numbers(table: str) -> dict[str, list[str]]:
    return {line.split()[0]: line.split()[1:] for line in table.splitlines()[1:]}


def test_the_table(model, make_callback):
    model.model.visual.requires_grad_(False)
    parts = make_callback(model, vit_lr=None, aligner_lr=None).parts(model)
    split_parameters(model, parts)
    table = _numbers(training_table(parts))
    counts: dict[str, list[int]] = {part: [0, 0, 0] for part in PARTS}
    for name, parameter in model.named_parameters():
        count = counts[_part_of(name)]
        count[1] += math.prod(parameter.shape)
        if parameter.requires_grad:
            count[0] += math.prod(parameter.shape)
            count[2] += 1
    assert counts['ViT'][0] == 0 < counts['segmentation'][0] < counts['segmentation'][1]
    rates = {'aligner': 'frozen', 'ViT': 'frozen', 'segmentation': '8e-05', 'LLM': '3e-05'}
    for part, (trained, total, tensors) in counts.items():
        assert table[part] == [f'{trained:,}', f'{total:,}', str(tensors), rates[part]]


def test_columns_are_aligned():
    small = ModelPart('ViT', (), 1e-5, None, [('a', torch.nn.Parameter(torch.zeros(2, 3)))], 7)
    large = ModelPart('segmentation', (), 8e-5, None, [], 224_400_000)
    lines = training_table([small, large]).splitlines()
    assert len({line.rindex('  ') for line in lines}) == 1
    assert lines[1].split() == ['ViT', '6', '7', '1', '1e-05'] and '224,400,000' in lines[2] and 'frozen' in lines[2]


def test_a_partitioned_parameter_of_zero_3_counts_in_full():
    parameter = torch.nn.Parameter(torch.empty(0))
    parameter.ds_numel = 12
    assert ModelPart('LLM', (), 1e-5, None, [('a', parameter)]).num_trained == 12


def test_the_table_is_logged(model, make_callback, caplog):
    caplog.set_level(logging.INFO)
    logger = logging.getLogger('swift')
    logger.addHandler(caplog.handler)
    try:
        make_callback(model).create_optimizer()
    finally:
        logger.removeHandler(caplog.handler)
    assert 'what this run trains' in caplog.text and 'segmentation' in caplog.text
