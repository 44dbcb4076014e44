"""What an answer in free text states: the text without marks of typesetting, and the part after 'The answer is'."""
import re
import unicodedata

_TYPESETTING = re.compile(r'\\(?:text|textbf|mathrm|mathbf|textit)\s*\{([^{}]*)\}')
_MARKS = re.compile(r'\*+|`+|__+|\$+|\\[()\[\]]|^\s*#+\s*', re.MULTILINE)
_BOXED = re.compile(r'\\(?:boxed|fbox)\s*\{')

# Words that lead to an answer, and those that may stand between.
_FILLER = (
    r'(?:(?:most\s+)?(?:likely|probably|clearly|definitely|simply|therefore|thus|hence|either|both|that|indeed)\s+'
    r')*')
_NAMED = (r'(?:\bans(?:wer)?s?|\b(?:correct|best|right|final|appropriate)\s+(?:option|choice|response)|\bchoice)'
          r'(?:\s+(?:option|choice|letter))?(?:\s+(?:here|to\s+(?:the|this)\s+question))?')
# A quote: '{"answer": "B"}'.
_LINK = (r'["\']?\s*(?:(?:is|are|was|would\s+be|should\s+be|will\s+be|must\s+be)(?!\w)\s*:?|:|=|->|→)\s*["\']?')
ENGLISH_CUE = _NAMED + _LINK + _FILLER
CHINESE_CUE = r'(?:答案|正确选项|最佳选项|答(?=\s*:))(?:应该|应当|应|就)?\s*(?:是|为|选择|选|:|=)\s*:?\s*'
_CUE = re.compile(f'(?:{ENGLISH_CUE}|{CHINESE_CUE})', re.IGNORECASE)
# A full stop behind a single letter ends no sentence ('E. coli'), nor does one between digits.
_END = re.compile(r'(?<![\W\d_])(?<!\b\w)[.!?](?=\s|$)|(?<=[\d)\]])[.!?](?=\s|$)|[。!?\n](?=.|$)')


def plain(text: str) -> str:
    """The text without emphasis, headings and LaTeX, full-width forms as plain ones."""
    text = unicodedata.normalize('NFKC', text).replace('’', "'")
    text = re.sub('[【\\[]((?:正确|参考)?答案)[】\\]]', r'\1:', text)
    return _MARKS.sub('', _TYPESETTING.sub(r'\1', text)).strip()


def boxed(text: str) -> str | None:
    r"""The inside of the last `\boxed{...}`; None where there is none that is closed."""
    # Of many that are not closed only the last are tried: each is sought to the end of the text.
    for match in list(_BOXED.finditer(text))[:-20:-1]:
        depth = 1
        for place in range(match.end(), len(text)):
            depth += (text[place] == '{') - (text[place] == '}')
            if not depth:
                return text[match.end():place].strip()
    return None


def after_cue(text: str) -> str | None:
    """What follows the last 'The answer is' in a text of `plain`, to the end of the sentence or line; None: nothing."""
    for match in reversed(list(_CUE.finditer(text))):
        end = _END.search(text, match.end())
        rest = text[match.end():end.start() if end else None].strip().rstrip('.。')
        if rest:
            return rest
    return None


def stated(text: str) -> str:
    """The answer that a text states: in its last box, after its last 'The answer is', or else all of it."""
    inside = boxed(text)
    text = plain(inside if inside is not None else text)
    return after_cue(text) or text
