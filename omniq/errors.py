"""Every error a user can cause, each with the exit code the command line ends with."""

LONGEST = 1200
"""Characters of a sentence: a file can hold a name of megabytes and many lines, and errors name what they found."""


class OmniqError(Exception):
    """A failure with a sentence for the user: the value, the place, the rule and the fix."""

    exit_code = 1

    def __str__(self) -> str:
        text = super().__str__().replace("\n", " ")
        return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


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


class RankError(OmniqError):
    """Another of the processes that share a job has stopped or cannot be reached."""

    exit_code = 11


class HubError(OmniqError):
    """The hub cannot be reached, or does not let this user do that."""

    exit_code = 10
