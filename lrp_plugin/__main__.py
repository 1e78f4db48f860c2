"""``python -m lrp_plugin``: the same as the console script ``lrp-plugin``."""

import sys

from lrp_plugin.cli import main

if __name__ == "__main__":
    sys.exit(main())
