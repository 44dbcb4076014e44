"""Yes and no in answers of many wordings; all expected values are by hand."""
from swift_citrusv.scoring.questions.yes_no import yes_or_no

PNEUMOTHORAX = 'Is there a pneumothorax?'
ENLARGED = 'Is the heart enlarged?'
FRACTURE = 'Does the image show a fracture of the left rib?'
气胸 = '这张图像中是否有气胸？'
增大 = '心脏是否增大？'
# question, answer, expected
ANSWERS: list[tuple[str, str, str | None]] = [
    # The first word.
    *((PNEUMOTHORAX, text, 'yes') for text in ('Yes', 'yes.', 'YES!', 'Yes, on the left.', '**Yes**', 'Yeah', 'Yep',
                                               'True', 'Correct.', 'The answer is yes.', 'Answer: Yes', r'\boxed{yes}',
                                               'Final answer: yes', '"Yes"')),
    *((PNEUMOTHORAX, text, 'no') for text in ('No', 'no.', 'No, the lungs are expanded.', 'Nope', 'False', 'Incorrect.',
                                              'The answer is no.', 'Answer: **No**', 'No pneumothorax.',
                                              'No pneumothorax is seen.', 'No evidence of pneumothorax.')),
    # Short forms.
    *((PNEUMOTHORAX, text, 'no') for text in ('Not seen.', 'Not seen', 'Not present.', 'Absolutely not',
                                              'Absolutely not.',
                                              'Definitely not!', 'Certainly not.', 'Of course not.', 'Not at all.',
                                              'None.', 'None is seen.', 'Absent.', 'Never.', 'Negative.',
                                              "I don't think so.", 'I do not see one.', 'It is not.', 'There is not.',
                                              "There isn't.", 'Not visible on this film.', 'Not identified.')),
    *((PNEUMOTHORAX, text, 'yes') for text in ('Definitely.', 'Absolutely!', 'Certainly.', 'Of course.', 'Indeed.',
                                               'Sure.',
                                               'I think so.', 'I believe so.', 'It is.', 'Present.', 'Positive.')),
    # Sentences about what was asked.
    *((PNEUMOTHORAX, text, 'no') for text in ('There is no pneumothorax.', 'There is no evidence of a pneumothorax.',
                                              'There is no visible pneumothorax on this radiograph.',
                                              'A pneumothorax is not seen.', 'The image does not show a pneumothorax.',
                                              'I see no pneumothorax here.', 'Pneumothorax is absent.',
                                              'Negative for pneumothorax.', 'The lungs are without pneumothorax.',
                                              'There is no pneumothorax. There is an effusion.')),
    *((PNEUMOTHORAX, text, 'yes') for text in ('There is a pneumothorax.', 'There is a large left pneumothorax.',
                                               'The image shows a pneumothorax.', 'A pneumothorax is present.',
                                               'A small apical pneumothorax can be seen.',
                                               'There is an effusion. There is also a pneumothorax.')),
    (ENLARGED, 'The heart is enlarged.', 'yes'), (ENLARGED, 'The heart is not enlarged.', 'no'),
    (ENLARGED, "The heart isn't enlarged.", 'no'), (ENLARGED, 'It is not enlarged.', 'no'),
    (ENLARGED, 'It is enlarged.', 'yes'), (ENLARGED, 'Not enlarged.', 'no'), (ENLARGED, 'The lungs are clear.', None),
    (FRACTURE, 'There is no fracture of the left rib.', 'no'), (FRACTURE, 'No fracture is seen.', 'no'),
    (FRACTURE, 'It shows a fracture of the left rib.', 'yes'), (FRACTURE, 'The bones are normal.', None),
    # Of something else.
    (PNEUMOTHORAX, 'There is no effusion.', None), (PNEUMOTHORAX, 'There is an effusion.', None),
    # The end of an argument.
    *((PNEUMOTHORAX, text, 'yes') for text in ('A pleural line is visible with no markings beyond it, so yes.',
                                               'The pleural line is displaced. Therefore, yes.',
                                               'The lung edge is visible, so the answer is yes.',
                                               'The left lung is collapsed - yes')),
    *((PNEUMOTHORAX, text, 'no') for text in ('The lung markings reach the chest wall, so no.',
                                              'Markings reach the wall. Thus, no.',
                                              'Lungs are expanded. In conclusion: no.')),
    # Neither.
    *((PNEUMOTHORAX, text, None) for text in ('', 'Maybe.', 'Possibly.', 'Not sure.', 'I am not sure.', 'Unclear.',
                                              'It cannot be excluded.', 'A pneumothorax cannot be ruled out.',
                                              'A pneumothorax may be present.', 'There might be a pneumothorax.',
                                              'Unable to determine.', 'No idea.', 'No comment.', 'No. 3 shows it.',
                                              'It depends.', 'I cannot tell if there is a pneumothorax.',
                                              'Pneumothorax is not uncommon.', 'Insufficient information.',
                                              'The image is of a chest.', 'Not necessarily.', 'No doubt.')),
    (PNEUMOTHORAX, 'Yes and no.', 'ambiguous'), (PNEUMOTHORAX, 'yes or no', 'ambiguous'),
    (PNEUMOTHORAX, 'There is a pneumothorax. There is no pneumothorax.', 'ambiguous'),
    # Chinese.
    *((气胸, text, 'yes') for text in '是 是的 有 有气胸 有的 存在 存在气胸 可见气胸 图像显示有气胸。 看到了 确实有 当然 对 正确 '
      '肺纹理消失，所以是。 答案：是'.split()),
    *((气胸, text, 'no') for text in '否 不是 没有 没有气胸 无 无气胸 未见气胸 未见明显气胸。 不存在 并没有 并无气胸 没有看到气胸 未发现气胸 '
      '图像中未见气胸 肺纹理正常，所以没有。 阴性 答案是否 否认'.split()),
    *((气胸, text, None) for text in ('无法判断', '不确定', '不能排除气胸', '可能有气胸', '疑似气胸', '不好说', '是否有气胸', '未见胸腔积液')),
    (增大, '心脏增大', 'yes'), (增大, '心脏未增大', 'no'), (增大, '心脏没有增大。', 'no'), (增大, '肺部清晰', None),
    # Without the question, denials alone.
    ('', 'There is no pneumothorax', 'no'), ('', 'Not seen', 'no'), ('', 'Absolutely not', 'no'),
    ('', 'Not clear', None),
    ('', 'A pneumothorax.', None), ('', 'No evidence of fracture.', 'no'), ('', '未见骨折', 'no'),
    ('', 'It is clear, so yes', 'yes'),
]  # yapf: disable


def test_every_wording():
    wrong = {(question, text): (found, expected) for question, text, expected in ANSWERS
             if (found := yes_or_no(text, question)) != expected}  # yapf: disable
    assert not wrong, '\n'.join(f'{case}: {found}' for case, found in wrong.items())
    assert len(ANSWERS) > 150
