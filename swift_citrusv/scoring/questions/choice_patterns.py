"""Regular expressions for option letters in an answer, their negations, and names that contain letters."""
import functools
import re

from .final_answer import CHINESE_CUE, ENGLISH_CUE

# Words that may follow an option letter; other words follow the article: 'A patient with ...'.
FUNCTION_WORDS = ('because|since|as|is|are|was|due|for|with|and|or|but|not|which|that|given|based|rather|if|so|'
                  'therefore|here|in|on|by|would|should|must|seems|looks|fits|best')
# Names that end with a letter that is not an option: 'vitamin C', 'hepatitis B', 'Figure A'.
NAMED_BY_LETTER = (r'(?:vitamins?|hepatitis|type|types|group|class|grade|stage|influenza|factor|protein|hemoglobin|'
                   r'immunoglobulin|ig|fig|figure|panel|image|table|part|section|phase|arm|hla|streptococc\w+|blood|'
                   r'haemophilia|hemophilia|botulinum|amphotericin|coxsackie|cell|point|box|line|plan|dr|mr|mrs|ms)')
NAMED_BY_LETTER_ZH = '维生素|因子|蛋白|图|组|型|类|血型|肝炎|流感|点|期|级|表|凝集素|毒素'
LETTER_NAMES_ZH = '型|超|细胞|反应|族|组|群|链|淋巴|类|期|级|点|区|波|蛋白|抗原|抗体|肝|流感|病毒|线'
LAST_WORD = re.compile(
    r'\b(?:final|finally|therefore|thus|hence|so|conclude|conclusion|wait|actually|correction|instead|overall)\b|'
    '因此|所以|故|综上|最终|最后|更正|修正|总之', re.IGNORECASE)
DENIALS = {'not', 'no', 'without', 'isnt', 'nor', 'never', 'than', 'excludes', 'excluding'}
DENIALS_ZH = re.compile('(?:不是|并非|而非|不选|排除|除外|无|非|不支持|不考虑)$')
_WRONG = (
    r'(?:not\s+(?:the\s+)?(?:\w+\s+)?(?:correct|right|answer|true|supported|consistent|likely|appropriate|it|this)'
    r'|incorrect|wrong|false|(?:ruled|left)\s+out|excluded|eliminated|(?:less|un)\s*likely|inappropriate)')
_RIGHT = (r'(?:the\s+)?(?:(?:most|clearly|single|only|one|overall)\s+)*'
          r'(?:correct|right|best|true|likely|appropriate|answer)')
_WRONG_ZH = '(?:均|都|是|为)*(?:不正确|错误|不对|不符|错|不是|可?排除|被排除|不选|不合)'


@functools.lru_cache(64)
class ChoicePatterns:
    """The compiled expressions for a set of option letters."""

    def __init__(self, letters: str) -> None:
        small = letters.lower()
        item = rf'(?:[(\[]\s*[{letters}{small}]\s*[)\]]|[{letters}])'
        gap = r'\s*(?:[,、/&+](?:\s*(?:and|or|nor)\b)?|\band\b|\bor\b|\bnor\b|和|或|及|与)\s*'
        follows = r'(?![A-Za-z0-9])(?![-\'][A-Za-z])'
        start = r'(?<![A-Za-z0-9])(?<![A-Za-z0-9]-)'
        # 'A, B and C', 'ABC', '(A)'.
        # No list is longer than the alphabet; the limit keeps degenerate texts fast.
        self.letters = rf'{start}(?:[{letters}]{{2,26}}|{item}(?:{gap}{item}|\s*\([{letters}]\)){{0,25}}){follows}'
        named = r'(?:(?:the\s+)?(?:options?|choices?|answers?|letters?)\s*:?\s*)?'
        self.at = re.compile(rf'\s*(?:(?:option|choice|letter|answer|选项|选)s?\s*)?({self.letters})')
        lower = rf'\s*[(\[]?([{small}])[)\]]?(?=\s*$|\s*[.,;)](?:\s|$))'
        self.lower_at = re.compile(lower)
        one = rf'[(\[]?\s*([{letters}{small}])\s*[)\]]?\s*[.:,)]?'
        self.bare = re.compile(rf'{named}{one}', re.IGNORECASE)
        self.bare_list = re.compile(rf'(?i:{named}(?:both\s+|either\s+)?)({self.letters})\s*[.]?')
        self.cue = re.compile(
            rf'(?:{ENGLISH_CUE}|{CHINESE_CUE}|(?:正确|最佳|最终)?(?:答案|选项)\s*(?=[(\[]?[A-Z])|'
            r'(?:故|应|应该|因此|所以|我|正确|最佳)*(?<!不)(?:选择|选)\s*(?:的?是|为|:)?\s*(?!项)|'
            r"\b(?:i|i'd|i'll|we|would|should)\s+(?:\w+\s+){0,2}?"
            r'(?:choose|pick|select|go\s+with|say)\s+|\b(?:choose|select|pick)\s+(?:option\s+)?|'
            rf'\banswer\s+(?={one}(?:\s*$|\s*\n|[.,])))', re.IGNORECASE)
        # 'The diagnosis is C.' at the end of a line; elsewhere only before the text of the option.
        self.weak = re.compile(
            rf'(?:(?i:\b(?:is|be|are|was|therefore|thus|hence|so)\b)\s*[,:]?\s*|(?:是|为|即)\s*)'
            rf'(?i:option\s+)?[(\[]?([{letters}])[)\]]?(?![A-Za-z0-9\'-])(?P<end>[.!。]?\s*(?=\n|$))?')
        self.right = re.compile(
            rf'({self.letters})(?:\s*\([^)]*\))?\s*(?:(?:is|are|would\s+be|must\s+be|=)\s+{_RIGHT}\b|'
            '(?:选项|项)?(?:是|为)?(?:最)?(?:正确|对的|符合|答案))')
        opinion = r"(?:(?:think|believe|say|choose|select|pick|be)\s+)?(?:that\s+)?(?:it(?:'s|\s+is)?\s+)?"
        self.denied = re.compile(
            r"(?:(?:\bnot|n't|\bneither|\brather\s+than|\binstead\s+of|\bexclud(?:es?|ing)|\brul(?:ed?|es|ing)\s+out|"
            rf'\beliminat(?:es?|ing))\s+{opinion}{named}|'
            '(?:答案)?(?:不是|不选|并非|而非|排除|不能选|不应选)(?:选项|答案)?\\s*)'
            rf'(?P<letters>{self.letters})(?:\s*,?\s*(?:but\b(?:\s+rather)?|而是|而应是|应是)?)')
        self.wrong = re.compile(rf'{named}(?P<letters>{self.letters})(?:\s*\([^)]*\))?(?:选项|项)?\s*(?:'
                                rf"(?:(?:is|are|was|were|can|could|seems?)\s+(?:be\s+)?|(?:isn't|aren't)\s+)+{_WRONG}|"
                                rf"(?:isn't|aren't|cannot\s+be|can't\s+be)\s+{_RIGHT}|{_WRONG_ZH})[^.;,\n。]*")
        self.line = re.compile(
            rf'^\s*(?:[-•]\s*)?(?:option\s+)?[(\[]?([{letters}])(?:[)\]]\s*[.:]?|[.:、)])'
            r'(?=\s|[^\s\w]|[^\x00-\x7f]|[A-Z0-9])(.*)$', re.MULTILINE)
        self.option = re.compile(rf'(?:\b(?:options?|choices?)|选项)\s*:?\s*({self.letters})|([{letters}])\s*(?:选项|项)',
                                 re.IGNORECASE)
        self.parenthesised = re.compile(rf'\(\s*([{letters}])\s*\)')
        self.alone = re.compile(rf'(?<![A-Za-z0-9.\'\-])([{letters}])(?![A-Za-z0-9\'\-])')


DENIED_LINE = re.compile(_WRONG + '|不正确|错误|排除|不对|不符', re.IGNORECASE)
