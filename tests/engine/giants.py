"""The zoo's check for networks by name, one at a time, a line for each: ``python tests/engine/giants.py [NAME ...]``.

Without names the two giants run, vit_h_14 (630 M parameters) and regnet_y_128gf (645 M): 5 GB each in float64, with
activations and graph some 12 GB. ``--size`` lowers the edge of the images.
"""

from __future__ import annotations

import argparse
import resource
import time
import traceback

from test_zoo import check
from zoo import GIANTS, edge_of


def main() -> int:
    """Runs the checks; the exit status is the number of networks that failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=GIANTS)
    parser.add_argument("--size", type=int, help="edge of the images in pixels (default: the network's own)")
    options = parser.parse_args()
    failed = 0
    for name in options.names:
        start = time.time()
        try:
            check(name, options.size or edge_of(name))
        except Exception:
            failed += 1
            print(f"{name:20} FAILED\n{traceback.format_exc()}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name:20} {time.time() - start:6.0f} s, peak memory so far {peak:.1f} GB", flush=True)
    return failed


if __name__ == "__main__":
    raise SystemExit(main())
