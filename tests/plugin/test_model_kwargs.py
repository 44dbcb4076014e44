"""`--model_kwargs`: settings of ours reach the environment with their prefix, other keys as ms-swift writes them."""
import os
import pytest

from swift_citrusv.settings import Settings


@pytest.fixture
def read(tiny_checkpoint):
    """Makes the arguments of `swift infer` with these `--model_kwargs`."""
    from swift.arguments import InferArguments

    from swift_citrusv.plugin.register import register
    register()

    def made(**settings):
        return InferArguments(model=tiny_checkpoint, torch_dtype='float32', **settings)

    return made


def test_settings_get_the_prefix(read, monkeypatch):
    monkeypatch.delenv('DATA_ROOT', raising=False)
    monkeypatch.setenv('CITRUSV_NONFINITE', 'stop')
    given = {'data_root': '/', 'NONFINITE': 'skip', 'max_pixels': 3136, 'seg_chunk': None}
    for model_type in (None, 'citrusv'):
        for name in ('MAX_PIXELS', 'CITRUSV_DATA_ROOT'):
            monkeypatch.delenv(name, raising=False)
        args = read(model_kwargs=dict(given), model_type=model_type)
        # As it was given: args.json keeps it.
        assert args.model_kwargs == given
        assert os.environ['MAX_PIXELS'] == '3136' and 'DATA_ROOT' not in os.environ, model_type
        settings = Settings.from_env()
        assert (settings.data_root, settings.nonfinite, settings.seg_chunk) == ('/', 'skip', 4), model_type


def test_text_on_the_command_line(read, monkeypatch):
    monkeypatch.delenv('SEG_LR', raising=False)
    args = read(model_kwargs='{"seg_lr": 8e-5, "fps": 2}')
    assert args.model_kwargs == {'seg_lr': 8e-5, 'fps': 2}
    assert Settings.from_env().seg_lr == 8e-5 and os.environ['FPS'] == '2' and 'SEG_LR' not in os.environ


def test_other_models_keep_their_environment(tiny_mllm, monkeypatch):
    from swift.arguments import InferArguments

    from swift_citrusv.plugin.register import register
    register()
    monkeypatch.delenv('DATA_ROOT', raising=False)
    InferArguments(
        model=tiny_mllm,
        model_type='qwen2_5_vl',
        template='qwen2_5_vl',
        torch_dtype='float32',
        model_kwargs={'data_root': '/x'})
    assert os.environ['DATA_ROOT'] == '/x'
