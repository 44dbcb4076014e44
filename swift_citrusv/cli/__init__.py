"""The `citrusv` command: one file a subcommand.

Subcommands parse options and print; the work is done by the rooms below. Nothing imports this room.
"""
