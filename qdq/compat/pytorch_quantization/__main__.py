"""`python -m qdq.compat.pytorch_quantization SCRIPT ARGS...` runs a script of old, untouched."""

import runpy
import sys
from pathlib import Path

from qdq.compat.installing import FULL_NAME, install

USAGE = f"usage: python -m {FULL_NAME} SCRIPT [ARGS...]"


def main(arguments: list[str]) -> None:
    """Run the script as Python would, with ours standing under the name pytorch_quantization.

    Args:
        arguments: path of the script, and what it shall find in sys.argv behind its own name.

    Raises:
        SystemExit: no script was named, or there is no such file.
        StepError: another pytorch_quantization can be imported.
    """
    if not arguments or not Path(arguments[0]).is_file():
        problem = f"no such file: {arguments[0]}" if arguments else "name the script to run"
        raise SystemExit(f"{USAGE}\n{problem}")
    sys.argv = arguments
    sys.path[0] = str(Path(arguments[0]).resolve().parent)
    install()
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1:])
