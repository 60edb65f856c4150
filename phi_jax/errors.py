"""The exceptions that reach a user as a line instead of a traceback, and the exit codes that launchers act upon."""

import errno

EXIT_FAILED = 1  # an error that starting again does not mend
# Asked to stop (SIGTERM, Ctrl-C of a training); what was reached is saved: start again to go on (EX_TEMPFAIL).
EXIT_PREEMPTED = 75
EXIT_PEER_LOST = 76  # another process of the run died or hangs: start all of them again


class UserError(Exception):
    """Something the user can put right. The message names the thing, the place and the remedy.

    The command line prints it as one line, whatever a name or a library's words in it hold, and exits with code 1;
    whatever stood before still stands.
    """

    def __str__(self) -> str:
        return " ".join(super().__str__().splitlines())


class PeerLost(Exception):
    """Another process of the run is not there. Exit code EXIT_PEER_LOST: all of them are to be started again."""


class Preempted(Exception):
    """The process was asked to stop, and everything reached is saved. Exit code EXIT_PREEMPTED."""


def one_line(error: BaseException) -> str:
    """What an exception of a library says, for a message of one line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def disk_is_full(error: BaseException | None) -> bool:
    """Whether that is why. Libraries wrap ENOSPC in exceptions of their own, so the text is looked at too."""
    while error is not None:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False
