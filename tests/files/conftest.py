import pytest


@pytest.fixture(scope='session')
def template(make_template):
    """The template of the tiny model, in training mode."""
    return make_template(4096)
