"""Presets of visual benchmarks: tiny files in their published formats."""
import pickle
import pytest
from PIL import Image
from support.benchmark_files import checked_rows, png, prompt_of, write_csv, write_json, write_parquet


def test_vqa_rad(tmp_path):
    row = {'qid': '1', 'phrase_type': 'freeform', 'image_name': 'synpic54610.jpg', 'image_organ': 'HEAD',
           'question': 'Are regions of the brain infarcted?', 'question_type': 'PRES', 'answer': 'Yes',
           'answer_type': 'CLOSED', 'question_rephrase': 'NULL'}  # yapf: disable
    path = write_json(tmp_path / 'VQA_RAD Dataset Public.json', [
        row, {**row, 'qid': 2, 'phrase_type': 'test_freeform', 'answer_type': 'CLOSED '},
        {**row, 'qid': 3, 'phrase_type': 'test_para', 'answer': 4, 'answer_type': 'OPEN'},
        {**row, 'qid': 3, 'phrase_type': 'test_para', 'answer': 'CT', 'answer_type': 'CLOSED'}])  # yapf: disable
    (tmp_path / 'VQA_RAD Image Folder').mkdir()
    (tmp_path / 'VQA_RAD Image Folder' / 'synpic54610.jpg').write_bytes(png(1))
    found = checked_rows('vqa-rad', str(path))
    assert [(row['id'], row['kind'], row['answer']) for row in found] == [
        ('vqa-rad:2', 'closed', 'Yes'), ('vqa-rad:3', 'open', '4'), ('vqa-rad:3#2', 'closed', 'CT')]  # yapf: disable
    assert found[0]['images'] == [str(tmp_path / 'VQA_RAD Image Folder' / 'synpic54610.jpg')]
    assert prompt_of(found[0]) == '<image>Are regions of the brain infarcted?\nAnswer with yes or no.'
    assert [prompt_of(row).endswith('a single word or a short phrase.') for row in found] == [False, True, True]
    assert [row['id'] for row in checked_rows('vqa-rad', str(tmp_path), 'train')] == ['vqa-rad:1']


def test_slake(tmp_path):
    row = {
        'img_id': 102,
        'img_name': 'xmlab102/source.jpg',
        'question': 'What modality?',
        'answer': 'MRI',
        'q_lang': 'en',
        'location': 'Abdomen',
        'modality': 'MRI',
        'answer_type': 'OPEN',
        'base_type': 'vqa',
        'content_type': 'Modality',
        'triple': ['vhead', '_', '_'],
        'qid': 11934
    }
    write_json(tmp_path / 'test.json', [row, {**row, 'question': '图中有肝脏吗？', 'answer': '有', 'q_lang': 'zh', 'qid': 11935,
                                              'answer_type': 'CLOSED'}])  # yapf: disable
    english, chinese = checked_rows('slake', str(tmp_path), images='/data/slake')
    assert english['images'] == ['/data/slake/xmlab102/source.jpg'] and english['modality'] == 'MRI'
    assert (chinese['kind'], chinese['language'], chinese['id']) == ('closed', 'zh', 'slake:11935')
    assert prompt_of(chinese) == '<image>图中有肝脏吗？\n请用一个词回答。'


def test_path_vqa(tmp_path):
    content = [{
        'image': {
            'bytes': png(shade),
            'path': None
        },
        'question': 'is it?',
        'answer': answer
    } for shade, answer in ((1, 'yes'), (1, 'in the canals of hering'), (2, 'no'))]
    write_parquet(tmp_path / 'data' / 'test-00000-of-00003-e9adadb4799f44d3.parquet', content)
    found = checked_rows('path-vqa', str(tmp_path), image_output=str(tmp_path / 'out'))
    assert [row['kind'] for row in found] == ['closed', 'open', 'closed']
    first, second, third = (row['images'][0] for row in found)
    assert first == second != third and Image.open(third).getpixel((0, 0)) == 2
    assert len(list((tmp_path / 'out').iterdir())) == 2
    assert all(row['images'] == [] for row in checked_rows('path-vqa', str(tmp_path)))
    (tmp_path / 'test_vqa.pkl').write_bytes(pickle.dumps([{'image': 'test_0001', 'question': 'x', 'answer': 'y'}]))
    with pytest.raises(ValueError, match='is a pickle'):
        checked_rows('path-vqa', str(tmp_path / 'test_vqa.pkl'))
    (tmp_path / 'pickles').mkdir()
    (tmp_path / 'test_vqa.pkl').rename(tmp_path / 'pickles' / 'test_vqa.pkl')
    with pytest.raises(ValueError, match='is a pickle'):
        checked_rows('path-vqa', str(tmp_path / 'pickles'))


def test_pmc_vqa(tmp_path):
    write_csv(tmp_path / 'test.csv',
              ['Figure_path', 'Question', 'Answer', *(f'Choice {x}' for x in 'ABCD'), 'Answer_label'],
              ['PMC1_F1.jpg', 'Which pattern?', 'Focal', 'A:Diffuse', ' B:Focal', ' C: None', 'D:Other', 'B'])
    write_csv(tmp_path / 'test_2.csv', ['index', 'Figure_path', 'Caption', 'Question', *(f'Choice {x}' for x in 'ABCD'),
                                        'Answer', 'split'],
              [0, 'PMC2_F1_1.jpg', 'c', 'Which?', ' A: w', ' B: x', ' C: y', ' D: z ', 'D', 'test'])  # yapf: disable
    write_csv(tmp_path / 'named.csv', ['Figure_path', 'Question', 'Anwser', *(f'Choice {x}' for x in 'ABCD')],
              ['PMC3_F1.jpg', 'Which?', ' C:y', ' A:w', ' B:x', ' C:y', ' D:z'])  # yapf: disable
    new, = checked_rows('pmc-vqa', str(tmp_path))
    old, = checked_rows('pmc-vqa', str(tmp_path), 'test')
    named, = checked_rows('pmc-vqa', str(tmp_path / 'named.csv'))
    assert (new['answer'], new['options']) == ('D', [*'wxyz'])
    assert (old['answer'], old['options']) == ('B', ['Diffuse', 'Focal', 'None', 'Other'])
    assert named['answer'] == 'C' and new['images'] == [str(tmp_path / 'images' / 'PMC2_F1_1.jpg')]
