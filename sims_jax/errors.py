"""The one error a user reads."""


class InputError(Exception):
    """Something given by the user cannot be used; the message is the one line they read.

    It names the file (or key), what was found, what was expected and what to do.
    """
