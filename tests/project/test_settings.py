"""Each setting from its environment variable; a value that cannot be used is an error that names the setting."""
import os
import pytest
import re
import subprocess
import sys
import warnings
import yaml
from dataclasses import fields
from pathlib import Path
from typing import Any

from swift_citrusv.model.losses import LossWeights
from swift_citrusv.settings import SettingError, Settings, variable

ROOT = Path(__file__).resolve().parents[2]
SPECS = {spec.name: spec for spec in fields(Settings)}

# setting -> (text, value), as ms-swift writes JSON values into the environment: str(value)
VALUES: dict[str, tuple[str, Any]] = {
    'sam2': ('facebook/sam2.1-hiera-large', 'facebook/sam2.1-hiera-large'),
    'sam2_preset': ('sam2.1_hiera_l', 'sam2.1_hiera_l'),
    'multimask_output': ('True', True),
    'seg_lr': ('8e-05', 8e-5),
    'mask_grad_scale': ('0.001', 0.001),
    'token_weight': ('0.5', 0.5),
    'dice_weight': ('2', 2.0),
    'bce_weight': ('0', 0.0),
    'pack_images': ('16', 16),
    'pack_buffer': ('50', 50),
    'seg_chunk': ('1', 1),
    'overlay_dir': ('/data/pictures', '/data/pictures'),
    'eval_pictures': ('0', 0),
    'data_root': ('/data/slices', '/data/slices'),
    'allow_urls': ('True', True),
    'max_image_pixels': ('1000000', 1000000),
    'max_volume_voxels': ('5000', 5000),
    'image_window': ('40,400', '40,400'),
    'nonfinite': ('skip', 'skip'),
}
NUMBERS = [
    name for name, (_, value) in VALUES.items() if isinstance(value, (int, float)) and not isinstance(value, bool)
]
INTEGERS = [name for name in NUMBERS if isinstance(VALUES[name][1], int)]
NOT_NUMBERS = ('nan', 'NaN', 'inf', 'Infinity', '-inf', '-1', '1e400', 'high', '[1]', '1 2')
BOOLEANS = {
    **dict.fromkeys(('1', 'true', 'True', 'yes', 'ON'), True),
    **dict.fromkeys(('0', 'false', 'False', 'no', 'off'), False)
}


def test_each_setting():
    assert set(VALUES) == set(SPECS)
    for name, (text, value) in VALUES.items():
        settings = Settings.from_env({variable(name): text, 'PATH': '/bin', name: 'lower case is another variable'})
        found = getattr(settings, name)
        assert found == value and type(found) is type(value), name
        for other, spec in SPECS.items():
            if other != name:
                assert getattr(settings, other) == spec.default, (name, other)


def test_all_at_once_and_from_the_environment(monkeypatch):
    for name, (text, _) in VALUES.items():
        monkeypatch.setenv(variable(name), text)
    assert Settings.from_env() == Settings(**{name: value for name, (_, value) in VALUES.items()})


def test_a_json_null_is_the_default():
    assert Settings.from_env({}) == Settings()
    for name in VALUES:
        for text in ('', 'None'):
            assert Settings.from_env({variable(name): text}) == Settings(), (name, text)


def test_booleans():
    # Without a value, the checkpoint decides.
    assert Settings.from_env({}).multimask_output is None
    for text, value in BOOLEANS.items():
        assert Settings.from_env({variable('multimask_output'): text}).multimask_output is value, text


def test_names_without_the_prefix_are_not_read():
    """A cluster's own DATA_ROOT moves no file; one warning names what to set if it was meant."""
    for name, (text, _) in VALUES.items():
        with pytest.warns(UserWarning, match=f'{name.upper()} is not a setting.*set CITRUSV_{name.upper()} instead'):
            assert Settings.from_env({name.upper(): text}) == Settings(), name
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        # Other ranks, and those who set both, hear nothing.
        assert Settings.from_env({'DATA_ROOT': '/x', 'RANK': '1'}).data_root is None
        assert Settings.from_env({'DATA_ROOT': '/x', 'CITRUSV_DATA_ROOT': '/y'}).data_root == '/y'


def test_values_that_cannot_be_used():
    cases = [(name, text) for name in NUMBERS for text in NOT_NUMBERS]
    cases += [(name, '1.5') for name in INTEGERS]
    cases += [(name, '0') for name in INTEGERS if name != 'eval_pictures']
    cases += [(name, text) for name in ('multimask_output', 'allow_urls') for text in ('2', 'maybe', 'tru')]
    cases += [('nonfinite', text) for text in ('Stop', 'ignore', '0')]
    for name, text in cases:
        try:
            settings = Settings.from_env({variable(name): text})
        except SettingError as error:
            message = str(error)
            assert name in message and text in message and SPECS[name].metadata['help'] in message, (name, text)
        else:
            pytest.fail(f'{name}={text!r} was read as {getattr(settings, name)!r}')


def test_the_lower_bound_itself_is_allowed():
    for name in NUMBERS:
        low = SPECS[name].metadata['low']
        assert getattr(Settings.from_env({variable(name): str(low)}), name) == low, name


# Table 4 of the paper, a stage a row: learning rates of LLM, ViT, aligner and segmentation (None where a dash says
# frozen), epochs, and the factor on the mask loss's gradient (section 4.2). For segmentation in stage 3 the table has a
# dash, but section 4.2 says that it is updated; the text is followed, with the rate of the other new parts.
TABLE_4 = {
    1: (None, 2e-6, 1e-5, None, 1, 1),
    2: (1e-5, 2e-6, 1e-5, None, 2, 1),
    3: (1e-5, 2e-6, 1e-5, 1e-5, 3, 0.001),
    4: (None, None, None, 8e-5, 10, 1),
}


def test_defaults_and_stage_files_are_the_papers():
    """Everything that table 4 and equation 4 give a number for."""
    weights = LossWeights()
    assert (weights.token, weights.dice, weights.bce) == (1, 2, 1)  # equation 4
    settings = Settings()
    # Weights that are not set leave those of equation 4; no stage but the third scales the gradient.
    assert (settings.token_weight, settings.dice_weight, settings.bce_weight) == (None, None, None)
    assert settings.mask_grad_scale == 1 and settings.seg_lr is None
    assert settings.sam2 is None and settings.sam2_preset is None and settings.multimask_output is None
    for stage, (llm, vit, aligner, segmentation, epochs, scale) in TABLE_4.items():
        # As ms-swift reads a stage file: its ENV entries are environment variables, and 1e-5 is a text for YAML.
        values = yaml.safe_load((ROOT / 'templates' / f'stage{stage}.yaml').read_text(encoding='utf-8'))
        environment = Settings.from_env({name: str(value) for name, value in values.pop('ENV', {}).items()})
        frozen = [values['freeze_llm'], values['freeze_vit'], values['freeze_aligner']]
        assert frozen == [rate is None for rate in (llm, vit, aligner)], stage
        assert ('segmenter' in values.get('freeze_parameters', [])) == (segmentation is None), stage
        assert ('seg_projector' in values.get('freeze_parameters', [])) == (segmentation is None), stage
        rates = {'learning_rate': llm, 'vit_lr': vit, 'aligner_lr': aligner}
        for name, rate in rates.items():
            assert rate is None or float(values[name]) == rate, (stage, name)
        assert environment.seg_lr == segmentation, stage
        assert environment.mask_grad_scale == scale and values['num_train_epochs'] == epochs, stage
        assert values['lr_scheduler_type'] == 'cosine', stage


def default_text(value: Any) -> str:
    """A default as documentation writes it; '' for None, which stands for different things."""
    return '' if value is None else str(value).lower() if isinstance(value, bool) else f'{value}'.removesuffix('.0')


def test_every_setting_is_described():
    """By what it does (more than its own name), its default, its range and its choices."""
    descriptions = [spec.metadata['help'] for spec in SPECS.values()]
    assert len(set(descriptions)) == len(descriptions)
    for name, spec in SPECS.items():
        text = spec.metadata['help']
        purpose, _, default = text.partition(' Default: ')
        assert len(purpose.split()) >= 5 and purpose[0].isupper() and purpose.endswith('.'), (name, text)
        assert re.match(rf'{re.escape(default_text(spec.default))}[^.]*(\.|,)', default) and text.endswith('.'), (name,
                                                                                                                  text)
        assert len(default.rstrip('.')) >= 1, (name, text)
        low, choices = spec.metadata['low'], spec.metadata['choices']
        assert (f'>= {low:g}' in purpose) if low is not None else '>=' not in purpose, (name, text)
        assert all(choice in purpose for choice in choices or ()), (name, text)


def test_the_docs_list_each_setting_with_its_default():
    """A row of the table may stand for several settings: "| `a`, `b` | meaning | 1, 2 |"."""
    table = {}
    for line in (ROOT / 'docs' / 'settings.md').read_text(encoding='utf-8').splitlines():
        if line.startswith('| `'):
            names, meaning, defaults = (cell.strip() for cell in line.strip()[1:-1].rsplit('|', 2))
            for name in re.findall(r'`(\w+)`', names):
                assert name not in table, f'{name} stands twice'
                table[name] = meaning, defaults
    assert set(table) == set(SPECS)
    for name, (meaning, default) in table.items():
        assert len(meaning.split()) >= 3, name
        assert default_text(SPECS[name].default) in default, (name, default)


def test_imports_nothing_heavy():
    code = ('import sys, swift_citrusv.settings; '
            'assert not {"torch", "swift", "transformers", "numpy"} & sys.modules.keys()')
    subprocess.run([sys.executable, '-c', code], check=True, env={**os.environ})
