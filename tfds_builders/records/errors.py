"""The one way of refusing bad input."""


class Refused(SystemExit):
    """Bad input, refused at the edge in one sentence: the rule, what was received, what to do.

    A SystemExit, so that a command (ours, or `tfds build` driving our builder) prints the sentence alone and
    exits with 1. Raise it in drivers and command lines only: inside a Ray worker SystemExit means something else.
    """
