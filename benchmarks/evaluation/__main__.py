"""Measurements behind docs/choosing-a-rule.md.

python -m benchmarks.evaluation tables --networks reference_cnn resnet18 vit --seeds 0 1 2
python -m benchmarks.evaluation tables --networks lite0
python -m benchmarks.evaluation families --families plain densenet unet bert decoder --seeds 0 1 2
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.evaluation.networks import FOLDER, NETWORKS
from benchmarks.evaluation.tables import METRICS, photographs, table, write_table

FAMILY_NAMES = ("plain", "densenet", "unet", "bert", "decoder")


def run_tables(options: argparse.Namespace) -> None:
    """One table for each network."""
    kept = FOLDER / "comparisons"
    for name in options.networks:
        if name == "lite0":
            found, facts = [photographs(kept)], {"network": name, "pictures": 8}
        else:
            pairs = [table(name, seed, options.pictures, kept, options.metrics) for seed in options.seeds]
            found = [pair[0] for pair in pairs]
            facts = {"network": name, "seeds": options.seeds, "accuracy": [pair[1] for pair in pairs],
                     "pictures": options.pictures}  # fmt: skip
        write_table(name, found, facts)
        print(found[0], flush=True)


def run_peers(_: argparse.Namespace) -> None:
    """The ratio of times."""
    from benchmarks.evaluation.peers import compare_times

    compare_times()


def run_pace(_: argparse.Namespace) -> None:
    """Time and memory of one comparison."""
    from benchmarks.evaluation.pace import measure

    measure()


def run_spelling(_: argparse.Namespace) -> None:
    """Rules of recurrent networks, with known answers."""
    from benchmarks.evaluation.spelling import measure

    measure()


def run_speech(options: argparse.Namespace) -> None:
    """Rules of recurrent networks, where speech starts."""
    from benchmarks.evaluation.speech import measure

    measure(options.sounds)


def run_families(options: argparse.Namespace) -> None:
    """Families with small networks and known answers."""
    from benchmarks.evaluation.families import measure

    for name in options.families:
        measure(name, options.seeds)


def run_recommend(options: argparse.Namespace) -> None:
    """What is chosen for each network, and how far it is from the best of all candidates."""
    from benchmarks.evaluation.choices import choose

    for name in options.networks:
        row = choose(name, options.metric, options.replacement, options.pictures)
        print({key: value for key, value in row.items() if key != "code"}, flush=True)


def main() -> None:
    """Measures, prints, writes to benchmarks/results/evaluation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="WHAT")
    tables = commands.add_parser("tables", help="methods against metrics")
    tables.add_argument("--networks", nargs="+", default=[*NETWORKS, "lite0"], choices=[*NETWORKS, "lite0"])
    tables.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    tables.add_argument("--pictures", type=int, default=48, help="test pictures with opacities for each network")
    tables.add_argument("--metrics", nargs="+", default=list(METRICS), choices=list(METRICS))
    tables.set_defaults(run=run_tables)
    peers = commands.add_parser("peers", help="time beside Quantus (extra peers)")
    peers.set_defaults(run=run_peers)
    pace = commands.add_parser("pace", help="time and memory of compare, by the number of pictures")
    pace.set_defaults(run=run_pace)
    spelling = commands.add_parser("spelling", help="rules of recurrent networks on g2p-en's GRUs (extra real)")
    spelling.set_defaults(run=run_spelling)
    speech = commands.add_parser("speech", help="rules of recurrent networks on silero-vad's LSTM cell")
    speech.add_argument("--sounds", type=Path, default=Path("/usr/share/sounds/alsa"), help="of Debian's alsa-utils")
    speech.set_defaults(run=run_speech)
    families = commands.add_parser("families", help="plain CNN, DenseNet, U-Net, BERT, decoder (extra peers)")
    families.add_argument("--families", nargs="+", default=list(FAMILY_NAMES), choices=FAMILY_NAMES)
    families.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    families.set_defaults(run=run_families)
    recommend = commands.add_parser("recommend", help="the rule chosen for each network")
    recommend.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    recommend.add_argument("--metric", default="srg")
    recommend.add_argument("--replacement", default="mean")
    recommend.add_argument("--pictures", type=int, default=24)
    recommend.set_defaults(run=run_recommend)
    options = parser.parse_args()
    torch.set_num_threads(1)  # of this process; pace measures in processes of its own, with every core
    options.run(options)


if __name__ == "__main__":
    main()
