"""Names of masks from the words beside [SEG]."""
from swift_citrusv.tryout.naming import mask_texts, name_masks, plain_name


def texts(*conversations: tuple[str, str]):
    rows = [[{'role': 'user', 'content': question}, {'role': 'assistant', 'content': answer}]
            for question, answer in conversations]  # yapf: disable
    return [item for row in rows for item in mask_texts(row)]


def test_words_of_requests_are_no_names():
    for text, name in (
        ('Segment the left atrium.', 'left atrium'),
        ('Where is the Left Atrium?', 'left atrium'),
        ('Which part of the scan is white core?', 'white core'),
        ('Draw the border of the heart and lungs on this slice.', 'heart and lungs'),
        ('Can you segment the intracranial region in this image for me, please?', 'intracranial region'),
        ('Sure, it is [SEG].', ''),
        ('[SEG]', ''),
        ('T2-FLAIR lesion 3', 't2-flair lesion 3'),
        ('请把灰质圈出来。', '灰质'),
        ('这一层的白质在哪？', '白质'),
        ('请分割左心房。', '左心房'),
    ):
        assert plain_name(text) == name, text


def test_answers_name_masks_and_questions_do_where_answers_say_nothing():
    for conversations, names in (
        ([('Segment it.', 'The liver: [SEG].'), ('Segment it.', 'The spleen: [SEG].')], ['liver', 'spleen']),
        ([('Segment the liver.', 'Sure, [SEG].'), ('Segment the spleen.', 'Sure, [SEG].')], ['liver', 'spleen']),
        # The same sentence for every mask names nothing.
        ([('Segment the liver.', 'Found structure: [SEG].'), ('And the spleen?', 'Found structure: [SEG].')],
         ['liver', 'spleen']),
        ([('Both?', '[SEG] liver. [SEG] spleen.')], ['liver', 'spleen']),
        ([('请分割肝脏。', '肝脏：[SEG]。'), ('请分割脾脏。', '脾脏：[SEG]。')], ['肝脏', '脾脏']),
        ([('Segment.', '[SEG]')], ['']),
    ):  # yapf: disable
        assert name_masks(texts(*conversations)) == names, conversations


def test_all_words_up_to_a_mask_select_it():
    first, second = texts(('Show <image>both.', 'Bone [SEG], lung [SEG].'))
    assert (first.phrase, second.phrase) == ('Bone', 'lung')
    assert first.given == 'Show both. Bone Bone'
    assert second.given == 'Show both. Bone , lung lung'
    earlier = mask_texts([{'role': 'user', 'content': 'I mean the liver.'},
                          {'role': 'assistant', 'content': 'Good.'},
                          {'role': 'user', 'content': [{'type': 'text', 'text': 'Segment it.'}]},
                          {'role': 'assistant', 'content': '[SEG]'}])  # yapf: disable
    assert 'liver' in earlier[0].given and earlier[0].question == 'Segment it.'
