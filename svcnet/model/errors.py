"""Errors that say who is at fault; each has its exit code (contract)."""


class SvcnetError(Exception):
    """Anything that the command line reports as one line."""

    exit_code = 1


class RecordError(SvcnetError):
    """Bad input: this record is left out, the rest goes on. Text: `FILE:LINE: field: wrong, expected`."""

    exit_code = 2


class UnmadeError(SvcnetError):
    """A health check that could not be made: it says nothing of who was to be asked."""


class ConfigError(SvcnetError):
    """A bad option, file or environment variable."""

    exit_code = 2


class StoreError(SvcnetError):
    """The store can't be reached: retry, serve the last good state."""

    exit_code = 3


class NotPermittedError(SvcnetError):
    """A privilege is missing; the text names it."""

    exit_code = 5


class KernelError(SvcnetError):
    """The kernel refused a commit: read everything back and plan again."""

    exit_code = 1


class ConflictError(SvcnetError):
    """The change clashes with what is there (record exists, address taken); the text names the holder."""

    exit_code = 1


class NotFoundError(SvcnetError):
    """Something that was named is not there."""

    exit_code = 1


def cause(error: Exception) -> Exception:
    """What to tell of a failure in the loop: the operator's mistake in a group of errors, else the error itself."""
    while isinstance(error, ExceptionGroup):
        error = next((e for e in error.exceptions if isinstance(e, SvcnetError)), error.exceptions[0])
    return error
