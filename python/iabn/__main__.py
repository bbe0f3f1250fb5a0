"""python -m iabn COMMAND"""

import argparse
import sys

from iabn import doctor


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m iabn", description="In-Place Activated BatchNorm")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser(
        "doctor", help="say what is installed and missing, and test the layer; exit code 0 if all is well"
    )
    parser.parse_args()
    return doctor.run()


if __name__ == "__main__":
    sys.exit(main())
