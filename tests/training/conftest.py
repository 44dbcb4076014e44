"""Fixtures of the training tests."""
import pytest
from support.measured_rows import load
from support.resumed_run import start  # noqa: F401
from support.rows import Maker


@pytest.fixture(scope='session')
def make_template(tiny_checkpoint):
    """Makes templates in training mode: the longest row, and keyword arguments of ms-swift's `get_template`."""
    from swift.model import get_model_processor
    from swift.template import get_template

    from swift_citrusv.plugin.datasets import patch_dataset_loading
    from swift_citrusv.plugin.register import register
    register()
    patch_dataset_loading()

    def make(max_length: int | None = 2048, **kwargs):
        _, processor = get_model_processor(tiny_checkpoint, model_type='citrusv', load_model=False)
        template = get_template(processor, max_length=max_length, **kwargs)
        template.set_mode('train')
        return template

    return make


@pytest.fixture(scope='module')
def template(make_template):
    return make_template()


@pytest.fixture(scope='module')
def every_kind(tmp_path_factory):
    """A dataset of rows of every kind; tests must not change its files."""
    folder = tmp_path_factory.mktemp('kinds')
    return load(folder, Maker(folder / 'images').every_kind())


@pytest.fixture
def own_rows(tmp_path):
    """Rows and files that a test may change."""
    maker = Maker(tmp_path / 'images')
    return maker.every_kind() + [maker.row(f'Question {i}?', 'Yes.') for i in range(20)]


@pytest.fixture
def mixed(tmp_path):
    """Good rows, one without its file, one that is too long, and two whose mask has another size than the image."""
    maker = Maker(tmp_path / 'images')
    bad = maker.row('<image>Segment.', '[SEG]', images=[maker.image()], masks=[maker.mask(40, 60)])
    rows = [
        maker.row('Hi.', 'Hello.'), bad,
        maker.row('<image>What?', 'A cell.', images=['nowhere.png']),
        maker.row('Bone?', 'Yes.'),
        maker.row('<image>Tell me all.', 'bone and vessel ' * 40, images=[maker.image()]), bad,
        maker.row('<image>What?', 'A cell.', images=[maker.image()])
    ]
    return load(tmp_path, rows)
