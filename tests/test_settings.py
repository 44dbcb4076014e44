"""Each setting from its environment variable; a value that cannot be used is an error that names the setting."""
import os
import pytest
import subprocess
import sys
from dataclasses import fields
from typing import Any

from swift_citrusv.settings import SettingError, Settings

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


def test_the_table_above_is_complete():
    assert set(VALUES) == {spec.name for spec in fields(Settings)}


@pytest.mark.parametrize('name', VALUES)
def test_each_setting(name):
    text, value = VALUES[name]
    settings = Settings.from_env({name.upper(): text, 'PATH': '/bin', name: 'lower case is another variable'})
    assert getattr(settings, name) == value and type(getattr(settings, name)) is type(value)
    for spec in fields(Settings):
        if spec.name != name:
            assert getattr(settings, spec.name) == spec.default


def test_all_at_once_and_from_the_environment(monkeypatch):
    for name, (text, _) in VALUES.items():
        monkeypatch.setenv(name.upper(), text)
    assert Settings.from_env() == Settings(**{name: value for name, (_, value) in VALUES.items()})


@pytest.mark.parametrize('text', ['', 'None'])
@pytest.mark.parametrize('name', VALUES)
def test_a_json_null_is_the_default(name, text):
    assert Settings.from_env({name.upper(): text}) == Settings() == Settings.from_env({})


@pytest.mark.parametrize('text, value', [('1', True), ('true', True), ('True', True), ('yes', True), ('ON', True),
                                         ('0', False), ('false', False), ('False', False), ('no', False),
                                         ('off', False)])
def test_booleans(text, value):
    assert Settings.from_env({'MULTIMASK_OUTPUT': text}).multimask_output is value


def test_false_is_not_the_default():
    """The checkpoint's own value is taken with None only."""
    assert Settings.from_env({}).multimask_output is None


@pytest.mark.parametrize('name, text', [
    *[(name, text) for name in NUMBERS for text in ('nan', 'NaN', 'inf', 'Infinity', '-inf', '-1', '1e400', 'high',
                                                    '[1]', '1 2')],
    *[(name, '1.5') for name in ('pack_images', 'pack_buffer', 'seg_chunk', 'eval_pictures')],
    *[(name, '0') for name in ('pack_images', 'pack_buffer', 'seg_chunk')],
    *[('multimask_output', text) for text in ('2', 'maybe', 'tru')],
    *[('nonfinite', text) for text in ('Stop', 'ignore', '0')],
])  # yapf: disable
def test_a_value_that_cannot_be_used(name, text):
    with pytest.raises(SettingError) as error:
        Settings.from_env({name.upper(): text})
    message = str(error.value)
    assert name in message and text in message
    assert next(spec.metadata['help'] for spec in fields(Settings) if spec.name == name) in message


@pytest.mark.parametrize('name', NUMBERS)
def test_the_lower_bound_itself_is_allowed(name):
    low = next(spec.metadata['low'] for spec in fields(Settings) if spec.name == name)
    assert getattr(Settings.from_env({name.upper(): str(low)}), name) == low


def test_defaults_are_the_papers():
    settings = Settings()
    assert settings.mask_grad_scale == 1 and settings.seg_lr is None and settings.sam2 is None


@pytest.mark.parametrize('spec', fields(Settings), ids=lambda spec: spec.name)
def test_every_setting_is_described(spec):
    assert spec.metadata['help'].endswith('.')


def test_imports_nothing_heavy():
    code = ('import sys, swift_citrusv.settings; '
            'assert not {"torch", "swift", "transformers", "numpy"} & sys.modules.keys()')
    subprocess.run([sys.executable, '-c', code], check=True, env={**os.environ})
