"""The exceptions for what a user can mend."""


class InputError(ValueError):
    """Bad input: its message names the thing, the place and the remedy in one sentence.

    The command line prints the message without a traceback and exits with code 2.
    """


class MissingError(InputError):
    """What an id names is not there, or not any more."""


class BusyError(InputError):
    """Nothing is wrong with the input, but the place is taken for now: the same again, later, may work."""


class StorageError(InputError):
    """Files that vireid keeps are damaged or cannot be written: whoever runs it can mend that, a client cannot."""
