"""Replacing functions of ms-swift: once, only with the expected parameters, and with an error that says what to do."""
import pytest
from types import SimpleNamespace
from typing import Any

from swift_citrusv.constants import MODEL_TYPE
from swift_citrusv.errors import CompatibilityError
from swift_citrusv.plugin.wrapping import check, is_citrusv, skips_bad_rows, wrap, wrap_class

REMEDY = 'Install ms-swift >=4.6,<4.7, or set SWIFT_CITRUSV_DISABLE=1 to run without the plugin.'


class Owner:
    """Has what the plugin replaces in ms-swift."""

    def method(self, first, second=1):
        """Adds."""
        return first + second

    @classmethod
    def of_class(cls, first):
        return cls, first

    @staticmethod
    def of_static(first):
        return first


def add_ten(original):

    def patched(self, first, **kwargs):
        return original(self, first, **kwargs) + 10

    return patched


def double(original):

    def patched(self, first, **kwargs):
        return 2 * original(self, first, **kwargs)

    return patched


@pytest.fixture
def owner():
    return type('Owner', (), dict(vars(Owner)))


def test_each_wrapper_is_applied_once_in_order(owner):
    for _ in range(3):
        wrap(owner, 'method', ('self', 'first'), add_ten)
    assert owner().method(1, second=2) == 13
    for wrapper in (double, add_ten, double):
        wrap(owner, 'method', ('self', 'first'), wrapper)
    assert owner().method(1, second=2) == 26
    assert owner.method.__name__ == 'method' and owner.method.__doc__ == 'Adds.'


def test_wrappers_of_one_name_in_two_functions_are_two(owner):
    """Marks have the qualified name: both of `patch_a` and `patch_b` have an inner function `wrapper`."""

    def patch_a():

        def wrapper(original):
            return lambda self, first: original(self, first) + 1

        wrap(owner, 'method', ('first', ), wrapper)

    def patch_b():

        def wrapper(original):
            return lambda self, first: original(self, first) * 10

        wrap(owner, 'method', ('first', ), wrapper)

    for patch in (patch_a, patch_b, patch_a, patch_b):
        patch()
    assert owner().method(1) == 30


def test_class_and_static_methods(owner):

    def of_class(original) -> Any:
        return classmethod(lambda cls, first: (cls, original(first)[1] + 1))

    def of_static(original) -> Any:
        return staticmethod(lambda first: original(first) + 1)

    for _ in range(2):
        wrap(owner, 'of_class', ('first', ), of_class)
        wrap(owner, 'of_static', ('first', ), of_static)
    assert owner.of_class(1) == owner().of_class(1) == (owner, 2)
    assert owner.of_static(1) == owner().of_static(1) == 2


def test_a_missing_symbol_or_parameter_is_named_with_the_remedy(owner):
    cases = [
        (lambda: wrap(owner, 'gone', (), add_ten), 'Owner.gone is gone. '),
        (lambda: wrap(owner, 'method', ('self', 'other'), add_ten),
         "Owner.method has the parameters ['self', 'first', 'second']; swift-citrusv expects ['self', 'other'] among "
         'them. '),
        (lambda: wrap_class(SimpleNamespace(__name__='swift.module'), 'Gone',
                            (), add_ten), 'swift.module.Gone is gone. '),
        (lambda: check('swift.function', lambda a: a,
                       ('b', )), "swift.function has the parameters ['a']; swift-citrusv expects ['b'] among them. "),
    ]
    for call, message in cases:
        with pytest.raises(CompatibilityError) as error:
            call()
        assert str(error.value).endswith(message + REMEDY), message
    assert owner().method(1) == 2, 'nothing is replaced after an error'


def test_a_class_is_replaced_where_its_module_calls_it():

    class Original:

        def __init__(self, value):
            self.value = value

    class Ours:

        def __init__(self, value):
            self.value = -value

    module = SimpleNamespace(__name__='swift.module', Original=Original)
    for _ in range(2):
        wrap_class(module, 'Original', ('value', ), lambda original: lambda value: Ours(value)
                   if value > 0 else original(value))
    made = module.Original(1), module.Original(-1)
    assert [type(one) for one in made] == [Ours, Original] and [one.value for one in made] == [-1, -1]
    assert isinstance(made[1], module.Original) and not isinstance(made[0], module.Original)
    assert issubclass(module.Original, Original) and module.Original.__name__ == 'Original'


def test_which_runs_are_ours():

    def template(template_type, mode='train'):
        return SimpleNamespace(template_meta=SimpleNamespace(template_type=template_type), mode=mode, trains_masks=True)

    assert is_citrusv(template(MODEL_TYPE))
    assert not is_citrusv(template('qwen2_5_vl')) and not is_citrusv(None)
    assert skips_bad_rows(template(MODEL_TYPE), False)
    for case in ((template(MODEL_TYPE), True), (template('qwen2_5_vl'), False), (template(MODEL_TYPE, 'rlhf'), False)):
        assert not skips_bad_rows(*case), case
