"""The console script ``lrp-plugin``: a module of its own, so that Ctrl-C while torch is imported ends in one line too."""

import sys


def main() -> int:
    """Runs the command line; returns the exit status."""
    try:
        from lrp_plugin.cli import main as run

        return run()
    except KeyboardInterrupt:
        print("\nlrp-plugin: stopped before anything was done", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
