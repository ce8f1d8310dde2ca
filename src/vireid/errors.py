"""The one exception for mistakes that a user can mend."""


class InputError(ValueError):
    """Bad input: its message names the thing, the place and the remedy in one sentence.

    The command line prints the message without a traceback and exits with code 2.
    """
