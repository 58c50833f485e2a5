"""The verbs of the command line, one file each: SAYS, EXAMPLE, `options(parser)` and `do(arguments)`.

Besides cli.py the only modules that print or exit. They import what is heavy inside their functions.
"""

CHANGES = "a change to the recipe, such as train.learning_rate=3e-5 or adapt=linear-probe"
"""What `key=value` is, for the help."""
