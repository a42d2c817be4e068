"""Every error a user can cause, each with the exit code the command line ends with."""


class OmniqError(Exception):
    """A failure with a sentence for the user: the value, the place, the rule and the fix."""

    exit_code = 1


class UsageError(OmniqError):
    """An option or a combination of options that can never work."""

    exit_code = 2


class ModelError(OmniqError):
    """The model is missing, damaged, or not a causal language model."""

    exit_code = 3


class DataError(OmniqError):
    """The calibration or evaluation text is missing or too short."""

    exit_code = 4


class UnsupportedError(OmniqError):
    """A valid request that this architecture, format or kernel cannot carry out."""

    exit_code = 5


class VerificationError(OmniqError):
    """What was written does not read back as what was calibrated."""

    exit_code = 6


class OutputError(OmniqError):
    """The output folder is in use, holds other work, or the disk is full."""

    exit_code = 7
