"""The one exception that reaches a user as a line instead of a traceback."""


class UserError(Exception):
    """Something the user can put right. The message names the thing, the place and the remedy.

    The command line prints it as one line and exits with code 1; whatever stood before still stands.
    """
