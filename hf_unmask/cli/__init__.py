"""The command line: one module per command, and the only room that knows typer and rich.

Floor 9: may import everything but `integrations`. Start in `main`, which puts the commands together; `terminal` is what
they share, `options` what is asked in several, `vocabulary` how options are called, here and in errors. Heavy modules
are imported inside functions, so that ``hf-unmask --help`` is quick.
"""
