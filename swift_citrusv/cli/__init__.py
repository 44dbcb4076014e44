"""The `citrusv` command: one file per subcommand.

Subcommands parse options and print; the rooms below do the work. No other room imports this one, but `swift app` calls
`cli.app.serve_swift_app`.
"""
