"""A lab report as Markdown, and pairs of rows and predictions about it."""
import json

from swift_citrusv.scoring.cases import Pair

HEADING = ('entry_name', 'result', 'reference', 'unit')
BLOOD = (('白细胞计数', '11.2 ↑', '3.5-9.5', '10^9/L'), ('红细胞计数', '4.5', '4.3-5.8', '10^12/L'),
         ('血红蛋白', '135', '130-175', 'g/L'))  # yapf: disable


def markdown(rows, heading=HEADING, delimiter=True):
    lines = [heading, *([['---'] * len(heading)] if delimiter else []), *rows]
    return '\n'.join('| ' + ' | '.join(line) + ' |' for line in lines)


def pair(answer, reference, name='ref.jsonl:1', **columns):
    row = {'messages': [{'role': 'user', 'content': '<image>读一读。'}], 'answer': reference, **columns}
    return Pair(name, row, None if answer is None else {'response': answer})


def question_content(body):
    """The content of a question to the judge, from the body of its request."""
    return json.loads(body['messages'][1]['content'])
