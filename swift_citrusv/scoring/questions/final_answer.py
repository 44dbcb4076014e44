"""Extracts the final answer from free text: without markup, after 'The answer is'."""
import re
import unicodedata

_TYPESETTING = re.compile(r'\\(?:text|textbf|mathrm|mathbf|textit)\s*\{([^{}]*)\}')
_MARKS = re.compile(r'\*+|`+|__+|\$+|\\[()\[\]]|^\s*#+\s*', re.MULTILINE)
_BOXED = re.compile(r'\\(?:boxed|fbox)\s*\{')

# Phrases that introduce an answer, and words that may follow them.
_FILLER = (
    r'(?:(?:most\s+)?(?:likely|probably|clearly|definitely|simply|therefore|thus|hence|either|both|that|indeed)\s+'
    r')*')
_NAMED = (r'(?:\bans(?:wer)?s?|\b(?:correct|best|right|final|appropriate)\s+(?:option|choice|response)|\bchoice)'
          r'(?:\s+(?:option|choice|letter))?(?:\s+(?:here|to\s+(?:the|this)\s+question))?')
# With quotes for JSON: '{"answer": "B"}'.
_LINK = (r'["\']?\s*(?:(?:is|are|was|would\s+be|should\s+be|will\s+be|must\s+be)(?!\w)\s*:?|:|=|->|→)\s*["\']?')
ENGLISH_CUE = _NAMED + _LINK + _FILLER
CHINESE_CUE = r'(?:答案|正确选项|最佳选项|答(?=\s*:))(?:应该|应当|应|就)?\s*(?:是|为|选择|选|:|=)\s*:?\s*'
_CUE = re.compile(f'(?:{ENGLISH_CUE}|{CHINESE_CUE})', re.IGNORECASE)
# A full stop after a single letter ('E. coli') or between digits does not end a sentence.
_END = re.compile(r'(?<![\W\d_])(?<!\b\w)[.!?](?=\s|$)|(?<=[\d)\]])[.!?](?=\s|$)|[。!?\n](?=.|$)')


def strip_markup(text: str) -> str:
    """The text without emphasis, headings and LaTeX commands; full-width forms are normalised (NFKC)."""
    text = unicodedata.normalize('NFKC', text).replace('’', "'")
    text = re.sub('[【\\[]((?:正确|参考)?答案)[】\\]]', r'\1:', text)
    return _MARKS.sub('', _TYPESETTING.sub(r'\1', text)).strip()


def last_boxed(text: str) -> str | None:
    r"""The content of the last closed `\boxed{...}`; None without one."""
    # Only the last few: each unclosed one is scanned to the end of the text.
    for match in list(_BOXED.finditer(text))[:-20:-1]:
        depth = 1
        for place in range(match.end(), len(text)):
            depth += (text[place] == '{') - (text[place] == '}')
            if not depth:
                return text[match.end():place].strip()
    return None


def text_after_cue(text: str) -> str | None:
    """The text after the last 'The answer is', up to the end of the sentence or line; None without one.

    Args:
        text: Output of `strip_markup`.
    """
    for match in reversed(list(_CUE.finditer(text))):
        end = _END.search(text, match.end())
        rest = text[match.end():end.start() if end else None].strip().rstrip('.。')
        if rest:
            return rest
    return None


def final_answer(text: str) -> str:
    r"""The text in the last `\boxed{...}`, after the last 'The answer is', or else the whole text."""
    inside = last_boxed(text)
    text = strip_markup(inside if inside is not None else text)
    return text_after_cue(text) or text
