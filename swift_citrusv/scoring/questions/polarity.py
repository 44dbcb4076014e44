"""Whether a statement answers a yes-or-no question with yes or no, in English and Chinese."""
import re

from .open_answers import answer_tokens

# Statements that leave the question open.
_OPEN = re.compile(
    r"\b(?:cannot|can't|can\s*not|could\s+not|couldn't|unable|impossible|difficult|hard)\s+"
    r'(?:to\s+)?(?:be\s+)?(?:\w+ly\s+)?'
    r'(?:exclude\w*|ruled?|rule|determine\w*|say|tell|assess\w*|judge\w*|confirm\w*|know|evaluate\w*|answer\w*|be)|'
    r'\b(?:unclear|uncertain|unknown|indeterminate|equivocal|inconclusive|insufficient|maybe|perhaps|possibl[ey]|'
    r'possibility|may|might|could|depends?|suspicious|suspected|questionable|whether|if)\b|'
    r"\bnot\s+(?:sure|certain|clear|necessarily|entirely|enough|possible\s+to|un\w+|in\w+|without|rare)|"
    r"\b(?:don't|do\s+not)\s+know|\bno\s+(?:idea|way|comment|doubt|answer|opinion|information)|"
    r'是否|不确定|无法|不能(?:确定|判断|排除|除外|肯定)|难以|不好说|可能|也许|或许|疑似|可疑|待查|待排|不除外|不排除|不清楚|如果|若', re.IGNORECASE)
_NEGATIVE = re.compile(
    r"\b(?:no|not|none|never|neither|nor|cannot|without|absent|absence|lack(?:s|ing)?|negative|free\s+of|nothing|"
    r"doubt|unlikely|unremarkable|denies|denied|rul(?:es?|ed)\s+out|excluded?)\b|n't\b|"
    r'未|没|无|不(?!过|仅|但|同|少)|否认|排除|阴性|缺乏', re.IGNORECASE)
_NEGATIVE_PHRASES = re.compile(
    r"^(?:(?:it|they|this|that|he|she)\s+)?(?:is|are|was|were|does|do|did|has|have|can|could|would|will)?\s*"
    r"(?:not|n't)\b|^(?:absolutely|definitely|certainly|clearly|surely|of\s+course|probably|obviously|really)\s+not\b|"
    r"^(?:i\s+)?(?:do\s+not|don't|would\s+not|wouldn't)\s+(?:think|believe|say|see)|^not\b|^none\b|^never\b|^absent\b|"
    r"^negative\b|^there\s+(?:is|are|was|were)n't|^i\s+doubt\b|"
    r'^(?:there\s+)?(?:is|are|was|were)\s+no(?:ne|t)?\b|^nothing\b|^neither\b|'
    r"^(?:it|they|this|that)\s+(?:isn't|aren't|doesn't|wasn't|can't|cannot|hasn't)\b|^without\b|"
    r'^(?:未见|未发现|未显示|并?没有?|并不|并无|不是|不存在|否认|没看到|看不到|阴性|不(?:是|会|能|对|存在|符合|支持|正确)|无)')
_POSITIVE_PHRASES = re.compile(
    r'^(?:definitely|absolutely|certainly|clearly|surely|of\s+course|indeed|sure|exactly|right|obviously|agreed|'
    r'positive|present|seen|visible)\b(?!\s+not)|'
    r'^i\s+(?:think|believe|would\s+say|guess|suppose)\s+(?:so|yes|it\s+(?:is|does))\b|'
    r'^(?:it|they|he|she|this|that)\s+(?:is|are|does|do|was|were|has|have|can)\s*(?:so|indeed)?\s*$|'
    r'^(?:确实|的确|当然|肯定|没错|看到了?|可见|有的|会的|能的|可以|阳性|存在|见到)')
_SHORT_NEGATIVE = re.compile(
    r"(?:not|n't)\s+(?:\w+ly\s+)?(?:seen|present|visible|identified|detected|observed|found|"
    r'apparent|evident|noted|shown|demonstrated|appreciated|visuali[sz]ed)', re.IGNORECASE)
# 'So yes', at the end of an argument.
_CONCLUDED = re.compile(
    r'(?:\b(?:so|therefore|thus|hence|overall|conclusion|summary|finally|i\s+(?:would\s+)?(?:say|conclude|answer))\b'
    r'(?:[^.!?\n]{0,60}?\b(?:answer|verdict)\s+(?:is|would\s+be))?[\s,:]*(?:the\s+)?|[,;:–—-]\s*|(?:所以|因此|故|综上|结论)'
    r'[,，:：\s]*(?:答案)?[是为:：]?\s*)(?P<word>yes|no|true|false|是的?|否|不是|有|没有|无)[\s.!。"\'*]*$', re.IGNORECASE)
_EXISTS = re.compile(
    r"^\W*(?:is|are|was|were)\s+there\b|\b(?:present|seen|visible|shown?|evidence|signs?|demonstrate\w*|reveal\w*|"
    r'contain\w*|exist\w*|identified|detected|have|has|any)\b|有没有|是否有|有无|是否存在|存在|可见|能看到|有.{0,12}吗|是否可见|显示',
    re.IGNORECASE)
_FILLER = frozenset(
    'is are was were be been being there this that these those it its in on of at to for with by from and or as the a '
    'an image picture scan film xray x ray ct mr mri radiograph photo shows show shown showing showed see seen visible '
    'present evidence sign signs any some do does did has have had can could would will should i we you think say '
    'patient patients no not none never neither nor without absent absence lack lacks of evident noted identified '
    'all here one 1 believe sure absolutely definitely certainly clearly surely course probably obviously really '
    'indeed exactly positive negative also so '
    'detected observed found apparent demonstrated appreciated visualized visualised which what does so yes'.split())
_FILLER_ZH = re.compile('有没有|是否有|是否|确实|的确|当然|肯定|没错|阴性|阳性|否认|吗|呢|的|了|在|中|未见|并?没有|不存在|存在|可见|发现|明显|有|无|不|并|'
                        '未|这张|图像|图片|患者|病人|显示|看到|提示|是')
_PRONOUN = re.compile(r'(?:it|they|he|she|this|that|these|those)\b')
_SENTENCE = re.compile(r'(?<![A-Z\d])[.!?;](?=\s|$)|[。!?;\n]')


def concluded_word(text: str) -> str | None:
    """The 'yes' or 'no' with which an argument ends: '..., so yes.'; None without one."""
    match = _CONCLUDED.search(text.strip())
    return match['word'] if match else None


def polarity(text: str, question: str = '') -> str | None:
    """What a statement without 'yes' or 'no' answers.

    Short forms answer any question: 'Not seen.', 'Absolutely not', 'I think so', '未见'. A whole sentence has to speak of
    what was asked: 'There is no pneumothorax' is no to 'Is there a pneumothorax?', and nothing to 'Is there an
    effusion?'. Without a question only denials count. Guesses, and double negations, answer nothing.

    Args:
        text: The answer without markup.
        question: The question; '' where it is not known.

    Returns:
        'yes', 'no', 'ambiguous' if sentences contradict each other, or None.
    """
    found = []
    asked = _content(question)
    for sentence in filter(None, (part.strip(' ,，"\'“”()') for part in _SENTENCE.split(text))):
        verdict = _of_sentence(sentence, asked, question)
        if verdict is not None:
            found.append(verdict)
    if len(set(found)) > 1:
        return 'ambiguous'
    return found[0] if found else None


def _of_sentence(sentence: str, asked: set[str], question: str) -> str | None:
    if _OPEN.search(sentence):
        return None
    lower = sentence.casefold()
    said = _content(sentence)
    short = said <= asked
    negations = _NEGATIVE.findall(lower)
    if len(negations) > 1 and not _SHORT_NEGATIVE.search(lower) and not re.match(r'no[,\s]', lower):
        # 'It is not without risk.'
        return None if not _NEGATIVE_PHRASES.match(lower) or len(negations) > 2 else 'no' if short else None
    if negations:
        if not question or _NEGATIVE_PHRASES.match(lower) and short or _SHORT_NEGATIVE.search(lower) and not said:
            return 'no' if _NEGATIVE_PHRASES.match(lower) or _SHORT_NEGATIVE.search(lower) or _denies(lower) else None
        return 'no' if _speaks_of(said, asked) and (_EXISTS.search(question) or _echoes(said, asked)) else None
    if _POSITIVE_PHRASES.match(lower) and short:
        return 'yes'
    if not question or not said:
        return None
    if _EXISTS.search(question):
        return 'yes' if _speaks_of(said, asked) and len(asked - said) <= len(asked) / 2 else None
    return 'yes' if _echoes(said, asked) or short and _PRONOUN.match(lower) else None


def _denies(lower: str) -> bool:
    return bool(
        re.search(
            r'\bthere\s+(?:is|are|was|were)\s+no|\bno\s+(?:\w+\s+){0,3}?(?:evidence|sign|signs|indication|'
            r'seen|present|visible|identified|detected)|^no\s+\w|\babsence\s+of|\bnegative\s+for|\bfree\s+of|'
            r'未见|没有|并无|^无|不存在|未发现|阴性|否认', lower))


def _speaks_of(said: set[str], asked: set[str]) -> bool:
    return bool(said & asked)


def _echoes(said: set[str], asked: set[str]) -> bool:
    """Whether a sentence repeats the question as a statement: nearly all its words, and nearly no others."""
    common = len(said & asked)
    return common > 0 and common >= .6 * len(said) and common >= .6 * len(asked)


def _content(text: str) -> set[str]:
    """The words that carry meaning: English words by their first six letters, Chinese by pairs of characters."""
    words = {
        word[:6]
        for word in answer_tokens(re.sub(r"n['’]t\b", '', text)) if word.isascii() and word not in _FILLER
    }
    for run in re.findall('[\u4e00-\u9fff]+', text):
        run = re.sub(_FILLER_ZH, ' ', run)
        words.update(part[i:i + 2] for part in run.split() for i in range(max(len(part) - 1, 1)))
    return words
