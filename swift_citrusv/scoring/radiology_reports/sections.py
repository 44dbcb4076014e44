"""Splits a radiology report into findings and impression by its English or Chinese headings."""
import re
from dataclasses import dataclass

_FINDINGS = (r'(?:(?:imaging|radiographic|radiologic|radiological|additional|other|key|main|pertinent|ct|mri|mr|x-?ray'
             r'|ultrasound)[ \t]+)?findings?|observations?')
_IMPRESSION = (r'(?:(?:diagnostic|radiographic|radiologic|radiological|imaging|clinical|final|overall)[ \t]+)?'
               r'(?:impressions?|conclusions?|diagnos[ie]s)|opinion')
_BOTH = r'findings[ \t]*(?:and|&|/)[ \t]*(?:impressions?|conclusions?)'
# Other headings, which end a section.
_OTHER = (r'exam(?:ination)?|(?:clinical[ \t]+)?(?:indication|history|information)|reason[ \t]+for[ \t]+'
          r'(?:exam(?:ination)?|study)|techniques?|comparisons?|recommendations?|addendum|end[ \t]+of[ \t]+impression'
          r'|accession[ \t]+number|summary')
_FINDINGS_ZH = '(?:影像学?|检查|放射学?|超声)(?:所见|表现)|(?:CT|MRI?|MRA|DR|X线)(?:检查)?(?:所见|表现)|所见|描述'
_IMPRESSION_ZH = ('(?:影像学?|检查|放射学?|超声|CT|MRI?|X线)(?:诊断|印象|结论|提示|意见)|诊断(?:意见|印象|结论|结果|提示)'
                  '|印象|结论|诊断|意见')
_OTHER_ZH = ('(?:检查|扫描)(?:方法|技术|部位|名称|项目|日期|目的)|临床(?:诊断|病史|资料|表现|信息)|(?:现|既往)?病史'
             '|(?:与?前片|既往)?对比|建议|备注')
# Distinctive enough to be a heading in the middle of a line.
_ANYWHERE_ZH = '(?:影像学?|检查)(?:所见|表现)|影像学?诊断|检查结论|诊断(?:意见|印象)'

_HEADING_NAME = (r'(?i:(?P<both>{b})|(?P<findings>{f})|(?P<impression>{i})|(?P<other>{o}))'.format(
    b=_BOTH, f=f'{_FINDINGS}|{_FINDINGS_ZH}', i=f'{_IMPRESSION}|{_IMPRESSION_ZH}', o=f'{_OTHER}|{_OTHER_ZH}'))
# Before a name at the start of a line: Markdown, bullets, numbers, brackets.
_HEADING_PREFIX = r'^(?:[ \t#>*_•·\[【「《(（+-]|\d{1,2}[.)、．）]|[一二三四五六七八九十]{1,3}[、.．)）])*'
# After it: a qualifier in brackets ('Findings (CT):') and the end of bold type; then a colon, a dash or the end of the
# line, or text if the name itself is in bold type or brackets.
_HEADING_SUFFIX = (r'(?:[ \t]*[(（][^()（）\n]{0,40}[)）])?'
                   r'(?:[ \t]*[*_\]】」》)）]*[ \t]*[:：][*_]*|[ \t]+[-–—][ \t]+|[ \t]*(?:\*\*|__|[\]】」》])|[ \t\r#]*$)')
_LINE = re.compile(_HEADING_PREFIX + _HEADING_NAME + _HEADING_SUFFIX, re.MULTILINE)
# In the middle of a line, a heading has a capital letter and a colon and follows punctuation; or it is in 【】.
_INLINE = re.compile(r'(?:(?<![^\s.。;；!！?？)）\]】」:：])(?:[一二三四五六七八九十]{1,3}、|\d{1,2}[.、)）][ \t]*)?[*_\[「]{0,3}'
                     r'(?=[A-Z\u4e00-\u9fff])|(?P<bracket>【))' + _HEADING_NAME
                     + r'(?(bracket)】[:：]?|[*_\]」]{0,3}[ \t]*[:：][*_]{0,2})')  # yapf: disable
_INLINE_ZH = re.compile(rf'(?P<name>{_ANYWHERE_ZH})[ \t]*[:：]')
_IS_FINDINGS_ZH = re.compile('.*(?:所见|表现)')


@dataclass(frozen=True)
class Sections:
    """The sections of a report.

    Attributes:
        findings, impression: The text below the heading; None without the heading, or if nothing is below it.
        has_headings: Whether the report has any heading.
    """
    findings: str | None
    impression: str | None
    has_headings: bool


def split_sections(text: str) -> Sections:
    """Finds the sections of a report.

    Headings are at the start of a line ('FINDINGS:', 'Impression', '## Findings', '**Findings:**', '1. Findings -',
    '【影像所见】', '二、诊断意见：') or, with a capital letter and a colon, within one ('Findings: ... Impression: ...',
    '检查所见：...诊断意见：...'). Conclusion, diagnosis, 印象, 结论 and the like count as impression. Other headings
    (Comparison, Technique, 检查方法, ...) end a section. Sections with the same name are joined; the text below 'Findings
    and impression' counts as both.

    Args:
        text: The report, without reasoning.
    """
    headings = _find_headings(text)
    parts: dict[str, list[str]] = {'findings': [], 'impression': []}
    for (_, start, kind), (end, _, _) in zip(headings, [*headings[1:], (len(text), len(text), '')]):
        below = text[start:end].strip()
        for name, found in parts.items():
            if below and kind in (name, 'both'):
                found.append(below)
    findings, impression = ('\n'.join(found) or None for found in parts.values())
    return Sections(findings, impression, bool(headings))


def _find_headings(text: str) -> list[tuple[int, int, str]]:
    """(start, end, kind) of the headings in order, without overlaps."""
    found = [(match.start(), match.end(), str(match.lastgroup)) for pattern in (_LINE, _INLINE)
             for match in pattern.finditer(text)]  # yapf: disable
    for match in _INLINE_ZH.finditer(text):
        kind = 'findings' if _IS_FINDINGS_ZH.match(match['name']) else 'impression'
        found.append((match.start(), match.end(), kind))
    headings: list[tuple[int, int, str]] = []
    # Of overlapping headings, keep the one that starts first, or else the longer one.
    for start, end, kind in sorted(found, key=lambda heading: (heading[0], -heading[1])):
        if not headings or start >= headings[-1][1]:
            headings.append((start, end, kind))
    return headings
