"""Findings and impression are found in the forms that people and models use."""
import time

from swift_citrusv.scoring.radiology_reports.sections import Sections, split_sections

# Text, findings, impression.
FORMS = {
    'upper case': ('FINDINGS: Clear lungs.\nIMPRESSION: Normal.', 'Clear lungs.', 'Normal.'),
    'one line': ('Findings: clear lungs Impression: normal', 'clear lungs', 'normal'),
    "the paper's": ('Findings: Lucency. No effusion.\n\nImpression: **Lucency; correlate.**', 'Lucency. No effusion.',
                    '**Lucency; correlate.**'),
    'own lines': ('FINDINGS\nClear.\n\nIMPRESSION\n1. Normal.\n2. Follow-up.', 'Clear.', '1. Normal.\n2. Follow-up.'),
    'lower case': ('findings: a\nimpression: b', 'a', 'b'),
    'Windows lines': ('FINDINGS\r\nclear\r\nIMPRESSION:\r\nok', 'clear', 'ok'),
    'Markdown': ('## Findings\nClear.\n\n### Impression\nNormal', 'Clear.', 'Normal'),
    'bold, colon in': ('**Findings:** Clear.\n**Impression:** Normal.', 'Clear.', 'Normal.'),
    'bold, colon out': ('- **Findings**: a\n- **Impression**: b', 'a', 'b'),
    'bold alone': ('**Findings**\nClear\n__Impression__\nNormal', 'Clear', 'Normal'),
    'bold, numbered': ('### **1. FINDINGS:**\n- Lungs: clear\n### **2. IMPRESSION:**\nok', '- Lungs: clear', 'ok'),
    'numbered': ('1. Findings: a\n2) Impression: b', 'a', 'b'),
    'numbered, one line': ('1. Findings: a 2. Impression: b', 'a', 'b'),
    'dashes': ('FINDINGS - clear\nIMPRESSION – ok', 'clear', 'ok'),
    'qualified': ('Findings (CT): a\nFinal Impression: b', 'a', 'b'),
    'synonyms': ('OBSERVATION: a\nCONCLUSION: b', 'a', 'b'),
    'other headings end a section': ('Technique: PA.\nComparison: none.\nFINDINGS:\nHeart: normal.\nIMPRESSION: a\n'
                                     'END OF IMPRESSION:\nSUMMARY: 2', 'Heart: normal.', 'a'),
    'other order': ('Impression: b\nFindings: a', 'a', 'b'),
    'twice': ('Findings: a\nImpression: b\nAdditional findings: c', 'a\nc', 'b'),
    'both in one': ('FINDINGS AND IMPRESSION: clear', 'clear', 'clear'),
    'full-width colon': ('检查所见：双肺清晰。\n诊断意见：未见异常。', '双肺清晰。', '未见异常。'),
    'Chinese, one line': ('检查所见：双肺清晰。印象：正常', '双肺清晰。', '正常'),
    'Chinese, nothing between': ('检查所见：双肺清晰诊断意见：正常', '双肺清晰', '正常'),
    'Chinese, own lines': ('影像所见\n双肺\n\n印象\n1、正常', '双肺', '1、正常'),
    'Chinese brackets': ('【影像所见】双肺纹理清晰【诊断意见】：未见异常', '双肺纹理清晰', '未见异常'),
    'Chinese numbers': ('一、检查所见：双肺；二、诊断意见：正常', '双肺；', '正常'),
    'Chinese Markdown': ('## 影像表现\n双肺\n**影像诊断：** 正常', '双肺', '正常'),
    'Chinese, others': ('检查方法：平扫\nCT所见：肝大\n结论：脂肪肝\n建议：复查', '肝大', '脂肪肝'),
    'mixed': ('Findings: 双肺清晰。\n印象：normal', '双肺清晰。', 'normal'),
    'findings alone': ('Findings: clear', 'clear', None),
    'impression alone': ('印象：正常', None, '正常'),
    'nothing below': ('Findings:\nImpression: ok', None, 'ok'),
}


def test_forms():
    for name, (text, findings, impression) in FORMS.items():
        assert split_sections(text) == Sections(findings, impression, True), name


def test_words_of_a_sentence_are_not_headings():
    for text in ('', 'The lungs are clear.', 'The findings are normal.', 'No acute findings: none.',
                 'Findings show clear lungs.', 'My impression is that it is normal', 'Heart: normal. Lungs: clear.',
                 '双肺清晰，未见异常。', '未见异常，考虑诊断：肺炎', '本次所见与前次相同'):  # yapf: disable
        assert split_sections(text) == Sections(None, None, False), text


def test_repetitive_texts_are_fast():
    for unit in ('*', '1.', ' ', 'Findings ', 'Findings (', '影像', '(', '\n', '# ', 'mr\t', '【', '一、'):
        start = time.process_time()
        split_sections(unit * (200_000 // len(unit)))
        assert time.process_time() - start < 5, unit
