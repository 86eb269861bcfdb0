"""Every error a user can cause. Each class also inherits the builtin it replaces, so `except ValueError` works."""


class DiffembedError(Exception):
    """Root of the errors that are shown to a person as one line and a hint.

    Args:
        message: What is wrong, the value got, the values allowed.
        hint: What to do about it; shown on a line of its own.
    """

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nhint: {self.hint}"


class ConfigError(DiffembedError, ValueError):
    """A setting, argument or recipe that cannot be used."""


class DataError(DiffembedError, ValueError):
    """Text, rows or files that cannot be read or make no sense."""


class CheckpointError(DiffembedError, RuntimeError):
    """A model folder or training checkpoint that is missing, damaged or of another kind."""


class IndexFormatError(DiffembedError, RuntimeError):
    """An index on disk that is damaged or of another format."""


class RunExistsError(DiffembedError, FileExistsError):
    """A run directory that would be overwritten."""


class MissingExtraError(DiffembedError, ImportError):
    """An optional dependency that is not installed; the hint names the extra."""
