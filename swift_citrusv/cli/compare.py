"""`citrusv compare`: compares two evaluations of the same rows, with intervals and a paired test."""
import argparse
import json

NAME = 'compare'
HELP = 'compare two results of `citrusv eval` with a paired test'
DESCRIPTION = (
    'Compares two scores.json files of `citrusv eval` on the same rows. Prints the difference of each score, its '
    '95 % interval (paired bootstrap) and the p-value of a paired permutation test.')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('first', metavar='A.json', help='scores.json of one run')
    parser.add_argument('second', metavar='B.json', help='scores.json of the other run')
    parser.add_argument('--common', action='store_true', help='compare only the rows that both runs have')
    parser.add_argument(
        '--repeats',
        type=int,
        default=10000,
        metavar='N',
        help='number of resamplings and of permutations (default: 10000)')
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: 0)')
    parser.add_argument('--output', metavar='FILE', help='write the comparison to this file, as JSON')


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    from ..scoring.compare import compare, comparison_json, comparison_lines, read_scores, task_class
    first, second = read_scores(args.first), read_scores(args.second)
    found = compare(first, second, args.common, args.repeats, args.seed)
    clusters = next(iter(found.values())).clusters if found else 0
    print(f'A: {args.first} ({first["predictions"]})')
    print(f'B: {args.second} ({second["predictions"]})')
    print(f'{clusters:,} clusters ({first["interval"]["drawn_together"]}), {args.repeats:,} resamplings')
    print('\n'.join(comparison_lines(task_class(first['task'])(**first['options']), found)))
    if args.output:
        with open(args.output, 'w', encoding='utf-8') as file:
            json.dump(comparison_json(found), file, indent=1)
            file.write('\n')
    return 0
