"""The command line: one file per command, thin (parse, call, print); what is shared stands in `flags` and `console`.

Nothing here imports jax before a command runs, so help answers at once.
"""
