"""Errors and warnings of one's own."""


class UnsupportedOperationError(RuntimeError):
    """An operation on a signal has no rule; the message names operation, module path and remedy."""


class UnsupportedOperationWarning(UserWarning):
    """An operation without a rule runs with its native gradient; the ledger books what that loses."""
