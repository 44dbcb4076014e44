"""The rules of `citrusv data filter`: what each takes, and what it leaves."""
import json
import numpy as np
import pytest
import re
import yaml
from pathlib import Path
from support.messy_rows import GOOD_ANSWER, row, write_images
from typing import Any

from swift_citrusv.cli.main import main
from swift_citrusv.curation.filter.rule_file import read_rules
from swift_citrusv.curation.filter.step import FilterStep
from swift_citrusv.curation.filter.text_rules import languages_of, repetition
from swift_citrusv.curation.shard_task import parsed
from swift_citrusv.curation.texts import count_units, row_text, token_counter
from swift_citrusv.package_files import templates_dir
from swift_citrusv.settings import SettingError

RULES = str(templates_dir() / 'filter_rules.yaml')
QUESTION = 'What does this film show in the left lung?'
MASK = {'size': [80, 80], 'counts': [100, 50, 6250]}


def rules_of(data: Any, **values: Any) -> dict[str, str]:
    """The rules that find something in a row, with their verdicts."""
    judge = FilterStep(read_rules(RULES).with_values(**values)).judge('', 0)
    made, decisions = parsed(json.dumps(data).encode() if not isinstance(data, bytes) else data, 'rows.jsonl', 1)
    return {decision.rule: decision.verdict for decision in decisions or judge(made).decisions}


@pytest.fixture
def images(tmp_path, monkeypatch) -> Path:
    write_images(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize('name, rule', [('ok.png', None), ('just.png', None), ('small.png', 'small-image'),
                                        ('single.png', 'single-colour'), ('blank.png', 'blank-image'),
                                        ('broken.png', 'undecodable-image'), ('gone.png', 'undecodable-image')])
def test_images(images, name, rule):
    # 64 x 64 pixels are 4,096; 65 x 63 are one fewer.
    assert rules_of(row(QUESTION, GOOD_ANSWER, name)) == ({rule: 'dropped'} if rule else {})


def test_the_second_image_counts_too(images):
    data = row(f'<image>{QUESTION}', GOOD_ANSWER, 'ok.png')
    data['images'].append('blank.png')
    assert rules_of(data) == {'blank-image': 'dropped'}


def test_every_image_is_opened_once(images, monkeypatch):
    from swift_citrusv.curation.filter import image_rules
    opened: list[str] = []
    real = image_rules.open_image

    def note(name: str, rules: Any) -> Any:
        opened.append(name)
        return real(name, rules)

    monkeypatch.setattr(image_rules, 'open_image', note)
    judge = FilterStep(read_rules(RULES)).judge('', 0)
    for name in ('ok.png', 'small.png', 'ok.png', 'small.png'):
        judge(parsed(json.dumps(row(QUESTION, GOOD_ANSWER, name)).encode(), 'rows.jsonl', 1)[0])
    assert opened == ['ok.png', 'small.png']


@pytest.mark.parametrize('name', ['chest.dcm', 'scan.nii.gz#plane=axial&index=3'])
def test_medical_images(images, name):
    """A slice of a scan is an image; a blank one is blank."""
    import nibabel
    from support import scans
    voxels = np.random.default_rng(0).integers(0, 999, (80, 80, 6)).astype(np.int16)
    voxels[..., 4] = 0
    nibabel.Nifti1Image(voxels, np.eye(4)).to_filename('scan.nii.gz')
    scans.dicom(Path('chest.dcm'))
    assert rules_of(row(QUESTION, GOOD_ANSWER, name)) == {}
    assert rules_of(row(QUESTION, GOOD_ANSWER, 'scan.nii.gz#plane=axial&index=4')) == {'single-colour': 'dropped'}
    assert rules_of(row(QUESTION, GOOD_ANSWER, 'scan.nii.gz#plane=axial&index=9')) == {'undecodable-image': 'dropped'}


@pytest.mark.parametrize('data, expected', [
    (row(QUESTION, GOOD_ANSWER), {}),
    (row(QUESTION, None), {'no-answer': 'dropped'}),
    (row(QUESTION, '  '), {'no-answer': 'dropped'}),
    (row('Are there nodules in one of the lungs?', '[SEG]', 'ok.png', masks=[MASK]), {}),
    ({'messages': [*row(QUESTION, GOOD_ANSWER)['messages'], {'role': 'user', 'content': 'And on the right side?'}]},
     {'no-answer': 'dropped'}),
    ({'query': QUESTION, 'response': GOOD_ANSWER}, {}),
    ({'conversations': [{'from': 'human', 'value': QUESTION}, {'from': 'gpt', 'value': GOOD_ANSWER}]}, {}),
    ({'messages': [{'role': 'user', 'contents': 'x'}]}, {'contract': 'dropped'}),
    (row(QUESTION, 'It is here: [SEG].', 'ok.png', masks=[MASK, MASK]), {'contract': 'dropped'}),
    ({'masks': [MASK], 'images': ['ok.png']}, {'contract': 'dropped'}),
    (b'{"messages": [], "n": 123456789012345678901234}', {'contract': 'dropped'}),
    (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', {'contract': 'dropped'}),
])  # yapf: disable
def test_contract_and_answers(images, data, expected):
    assert rules_of(data, min_tokens=0) == expected


def test_length(images):
    # Questions and answers count together, placeholders do not: 9 + 1.
    assert rules_of(row(QUESTION, 'Nothing.')) == {}
    assert rules_of(row(QUESTION, '<bbox>.[SEG]')) == {'short': 'dropped'}
    assert rules_of(row('What does it show in the left lung?', 'Nothing.')) == {'short': 'dropped'}
    assert rules_of(row('Segment the liver.', 'Here: [SEG].', 'ok.png', masks=[MASK])) == {}
    words = ' '.join(f'w{number}' for number in range(1015))
    assert rules_of(row(QUESTION, words)) == {}
    assert rules_of(row(QUESTION, f'{words} more')) == {'long': 'dropped'}
    assert rules_of(row(QUESTION, f'{words} more'), max_tokens=1025) == {}
    # A Chinese character is one.
    assert rules_of(row('左肺有无结节？', '未见。')) == {'short': 'dropped'}
    assert rules_of(row('左肺有无结节？', '左肺未见。')) == {}
    assert [count_units(text) for text in ('', 'T2-weighted, 3.5 cm', '左肺CT一个', 'naïve α-helix')] == [0, 5, 5, 3]


def test_tokens_of_a_tokenizer(tiny_checkpoint):
    from transformers import AutoTokenizer
    count, tokenizer = token_counter(tiny_checkpoint), AutoTokenizer.from_pretrained(tiny_checkpoint)
    for text in (GOOD_ANSWER, '左肺有无结节？', ''):
        assert count(text) == len(tokenizer.encode(text, add_special_tokens=False))
    with pytest.raises(SettingError, match='has no tokenizer.json'):
        token_counter('tests')


# A text that each text rule takes, and one next to it that it leaves.
TEXTS = [
    ('refusal', 'As an AI language model I cannot look at it.', 'The model of the pump shows no refusal to work.'),
    ('refusal', '很抱歉，我无法查看图片。', '患者无法配合检查，图像质量欠佳，建议复查。'),
    ('refusal', "I can't interpret medical images for you.", 'She cannot see well with the left eye.'),
    ('boilerplate', 'A mass. Click here for more cases.', 'There is a click with each beat of the valve.'),
    ('boilerplate', '结节影。版权所有，转载请注明出处。', '建议点状强化灶随访。'),
    ('placeholder', 'A mass in the [insert side] lung.', 'A mass [arrow] in the left lung.'),
    ('placeholder', '心影{{大小}}正常。', '心影大小正常（待查）。'),
    ('markup', 'Clear<br/>lungs.', 'A nodule of <3 mm, and another of >5 mm.'),
    ('markup', 'Clear &nbsp; lungs.', 'R&D; heart & lungs.'),
    ('markup', 'Bad \\u4e2d escape.', 'A path like C:\\users is none.'),
    ('encoding', 'The patientâ€™s lung.', 'The patient’s lung, naïve, Köhler, São Paulo.'),
    ('encoding', '锟斤拷肺部', '肺部斤斤计较'),
    ('character-run', 'Aaaaaaaaaaaaaah.', 'Value: 1.0000000000000 ------------------- cm.'),
    ('character-run', 'no no no no no no no.', 'No, no effusion, no mass, no nodule, no consolidation.'),
    ('wrong-script', 'В лёгких патологии не выявлено.', 'α-fetoprotein ↑, β-hCG 5 µg/L ≥ normal, naïve Köhler.'),
    ('wrong-script', 'الرئتان واضحتان تماما', 'Both lungs 清晰，心影 normal。'),
]


@pytest.mark.parametrize('rule, bad, good', TEXTS)
def test_text_rules(rule, bad, good):
    filler = ' '.join(f'w{number}' for number in range(12)) if rule != 'wrong-script' else ''
    question = QUESTION if rule != 'wrong-script' else ''
    verdict = 'review' if rule == 'markup' else 'dropped'
    assert rules_of(row(question, f'{bad} {filler}'), min_tokens=0) == {rule: verdict}
    assert rules_of(row(question, f'{good} {filler}'), min_tokens=0) == {}


def test_every_text_rule_is_tested():
    assert {rule for rule, _, _ in TEXTS} == {rule.name for rule in read_rules(RULES).text_rules}


def test_repetition():
    sentence = 'there is no pleural effusion on either side of the chest '
    assert rules_of(row(QUESTION, sentence * 6)) == {'repetition': 'dropped'}
    assert rules_of(row(QUESTION, sentence + GOOD_ANSWER)) == {}
    assert 'repetition' in rules_of(row('请描述。', '双肺纹理清晰未见异常。' * 9))
    # By hand: 8 groups of 4 words, of which 4 are new.
    assert repetition('a b c d a b c d a b c', 4) == pytest.approx(1 - 4 / 8)
    assert repetition('a b c d a b c d a b c', 40) == 0


def test_languages():
    assert languages_of('The lungs are clear.') == ('any', 'en')
    assert languages_of('双肺清晰') == ('any', 'zh')
    assert set(languages_of('双肺清晰 both lungs are clear and well')) == {'any', 'zh', 'en'}


def test_texts_of_rows():
    text = row_text({'messages': [
        {'role': 'system', 'content': 'You are kind.'},
        {'role': 'user', 'content': [{'type': 'image', 'image': 'x.png'}, {'type': 'text', 'text': 'What <b> is it?'}]},
        {'role': 'assistant', 'content': 'It is <ref-object><bbox>[SEG] here.'}]}, 'row')  # yapf: disable
    assert tuple(text) == (('What <b> is it?', ), ('It is  here.', ), ('system', 'user', 'assistant'), ())
    assert text.all == 'What <b> is it?\nIt is  here.'


def changed_rules(change: Any) -> str:
    content = yaml.safe_load(Path(RULES).read_text(encoding='utf-8'))
    change(content)
    return yaml.safe_dump(content, allow_unicode=True)


@pytest.mark.parametrize('change, message', [
    (lambda rules: rules['rules'][0].update(pattern='x'), "rule 1 has the unknown key 'pattern'"),
    (lambda rules: rules['rules'][0].update(patterns=['(']), r"rule 1 \(refusal\) has the pattern '\('"),
    (lambda rules: rules['rules'][0].update(patterns='x'), "patterns 'x', not a list"),
    (lambda rules: rules['rules'][0].update(where='both'), "where 'both', which is none of question, answer, any"),
    (lambda rules: rules['rules'][0].update(name='My rule'), "the name 'My rule'"),
    (lambda rules: rules['rules'][0].update(text='other'), "the rules 'refusal' have different texts"),
    (lambda rules: rules['rules'][0].pop('verdict'), "rule 1 lacks 'verdict'"),
    (lambda rules: rules['rules'][0].update(min_count=0), 'min_count 0'),
    (lambda rules: rules['rules'][0].update(min_share=2), 'min_share 2'),
    (lambda rules: rules.update(image={}), "it has the unknown key 'image'"),
    (lambda rules: rules['tokens'].update(min=-1), 'tokens.min is -1, not an integer of 0 or more'),
    (lambda rules: rules['tokens'].update(max='many'), "tokens.max is 'many'"),
    (lambda rules: rules.update(rules=None), "'rules' is None, not a list"),
])
def test_faults_in_the_rule_file(tmp_path, change, message):
    path = tmp_path / 'rules.yaml'
    path.write_text(changed_rules(change), encoding='utf-8')
    with pytest.raises(SettingError, match=f'rules.yaml: .*{message}'):
        read_rules(str(path))


def test_own_rules_and_the_report(images, capsys):
    """A rule of one's own, from the command line; its examples are in the report."""
    Path('rules.yaml').write_text(changed_rules(lambda rules: rules['rules'].append({
        'name': 'no-lateral', 'text': 'lateral films', 'where': 'question', 'language': 'any',
        'patterns': [r'\blateral\b'], 'verdict': 'review'})), encoding='utf-8')  # yapf: disable
    lines = [row('What does the lateral film show in this man?', GOOD_ANSWER, 'ok.png'),
             row('What does the film of <script>alert(1)</script> show?', GOOD_ANSWER, 'ok.png'),
             row(QUESTION, GOOD_ANSWER, 'blank.png')]  # yapf: disable
    Path('rows.jsonl').write_text('\n'.join(map(json.dumps, lines)), encoding='utf-8')
    assert main(['data', 'filter', 'rows.jsonl', '--rules', 'rules.yaml', '--output', 'out']) == 0
    assert 'no-lateral: 1 review (lateral films)' in capsys.readouterr().out
    report = Path('out/report.html').read_text(encoding='utf-8')
    assert 'lateral films' in report and report.count('<img ') == 3 and '<script' not in report
    assert not re.search(r'(src|href)="(?!data:|#)', report)
    recipe = json.loads(Path('out/summary.json').read_text(encoding='utf-8'))['run']['steps'][0]
    assert recipe['rules']['text_rules'][-1]['name'] == 'no-lateral'
