"""python -m omniq.harness: lm-evaluation-harness's own command line, in which --model omniq is known.

For example: python -m omniq.harness run --model omniq --model_args pretrained=FOLDER --tasks TASK --include_path DIR
"""

from __future__ import annotations

import sys

from omniq.errors import OmniqError
from omniq.harness.available import check_lm_eval


def main() -> None:
    """Registers the model, then hands over; an error that a user can do something about is one sentence."""
    try:
        check_lm_eval()
        hand_over()
    except OmniqError as error:
        print(f"omniq.harness: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def hand_over() -> None:
    """lm-eval's command line on this process's arguments."""
    from lm_eval.__main__ import cli_evaluate

    # Importing the class is what makes its name known.
    from omniq.harness.wrapper import OmniqLM  # noqa: F401

    cli_evaluate()


if __name__ == "__main__":
    main()
