"""The command line `helium-jax`: one file per command, loaded when it is asked for.

What does not live here: anything that another program could use. Commands read options, call the
library and print; signals, log handlers and exit codes are installed here and nowhere else.
"""
