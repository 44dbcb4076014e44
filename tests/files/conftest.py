import pytest


@pytest.fixture(scope='session')
def template(tiny_checkpoint):
    """The template of the tiny model, in training mode."""
    from swift.model import get_model_processor
    from swift.template import get_template

    from swift_citrusv.plugin.register import register
    register()
    _, processor = get_model_processor(tiny_checkpoint, model_type='citrusv', load_model=False)
    template = get_template(processor, max_length=4096)
    template.set_mode('train')
    return template
