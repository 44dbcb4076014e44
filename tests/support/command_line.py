"""Runs `citrusv` in this process."""
from swift_citrusv.cli.main import main


def run_citrusv(capsys, *arguments: object) -> tuple[int, str, str]:
    """Returns the exit status, stdout and stderr."""
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err
