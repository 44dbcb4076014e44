"""Yes-or-no answers, and the references that ask for them."""
from swift_citrusv.scoring.questions.yes_no import is_yes_or_no, yes_or_no

ANSWERS = [
    ('Yes', 'yes'), ('yes, there is', 'yes'), ('True', 'yes'), ('No.', 'no'), ('No, there is none', 'no'),
    ('FALSE', 'no'),
    ('The answer is yes', 'yes'), ('Answer: **No**', 'no'), (r'\boxed{no}', 'no'), ('yes or no', 'ambiguous'),
    ('Yes/No', 'ambiguous'), ('there is', None), ('no idea', None), ('Not sure', None), ('Normal', None),
    ('North', None),
    ('是', 'yes'), ('是的，有', 'yes'), ('是肺炎', 'yes'), ('对', 'yes'), ('有', 'yes'), ('存在', 'yes'), ('正确', 'yes'),
    ('答案是：是', 'yes'), ('否', 'no'), ('不是', 'no'), ('没有', 'no'), ('没有异常', 'no'), ('无', 'no'), ('不存在', 'no'),
    ('错误', 'no'), ('不对', 'no'), ('答案是否', 'no'), ('无法判断', None), ('不能确定', None), ('是否', None), ('有没有', None),
    ('有关', None), ('', None),
]  # yapf: disable


def test_answers():
    for text, expected in ANSWERS:
        assert yes_or_no(text) == expected, text


def test_references():
    for text in ('Yes', 'no', 'TRUE', '是', '没有', 'No.', '存在'):
        assert is_yes_or_no(text), text
    for text in ('Lung', 'No, on the left', '右肺', '', 'not seen'):
        assert not is_yes_or_no(text), text
