"""Runs `citrusv segment` in this process, and compares its results."""
import argparse
import json
from pathlib import Path
from support.closeness import assert_same_mask
from support.rows import write_jsonl
from typing import Any

from swift_citrusv import CitrusVPipeline
from swift_citrusv.cli import segment as command

MAX_TOKENS = 24


def segment(pipe: CitrusVPipeline, data: str, output: Path, *flags: str) -> list[dict[str, Any]]:
    """Runs the command in this process; the lines of its output."""
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = ['--model', '.', '--data', data, '--output', str(output), '--batch-size', '4', *flags]
    assert command.run(parser.parse_args(args), pipe) == 0
    return lines_of(output)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding='utf-8').splitlines()]


def segment_given_texts(pipe: CitrusVPipeline, rows: str, lines: list[dict[str, Any]],
                        folder: Path) -> list[dict[str, Any]]:
    """Runs the command with the texts of other results, given by --text."""
    texts = write_jsonl(folder / 'texts.jsonl', [{'response': line['response'], 'finish_reason': 'stop'}
                                                 for line in lines])  # yapf: disable
    return segment(pipe, rows, folder / 'given.jsonl', '--text', texts)


def assert_same_results(lines: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    for line, wanted in zip(lines, expected, strict=True):
        # The line of a row that failed has none.
        for mask, other in zip(line.get('masks') or [], wanted.get('masks') or [], strict=True):
            assert_same_mask(mask, other)
        assert {**line, 'masks': None} == {**wanted, 'masks': None}
