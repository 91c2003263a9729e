#!/usr/bin/env python3
"""Trains on the same examples with gradwire and with Vowpal Wabbit, by turns, and prints medians.

    cluster-scripts/flights-libsvm.py FOLDER
    cluster-scripts/against-vw.py FOLDER [--runs 5]

FOLDER is what flights-libsvm.py wrote. The training set is given ten times: to gradwire as a list of files, to
Vowpal Wabbit as one file (FOLDER/flights10.vw, written here). Both start with the whole command, read text, make one
pass of ftrl with the same rates, and end with it; what is timed is the command from start to end. Processor seconds are
printed too: on a busy machine they say more.

Needs `cargo build --release`, and Vowpal Wabbit for this Python: pip install vowpalwabbit==9.11.9.
"""

import argparse
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import time

COPIES = 10
PROGRAM = pathlib.Path(__file__).resolve().parent.parent / "target" / "release" / "gradwire"
VW = """
import sys
from vowpalwabbit import Workspace
Workspace("--ftrl --loss_function logistic --ftrl_alpha 0.1 --ftrl_beta 1 --l1 0 --l2 1 --noconstant -b 18 --quiet -d "
          + sys.argv[1]).finish()
"""


def timed(command):
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=5)
    flags = parser.parse_args()
    svm, vw = flags.folder / "flights.svm", flags.folder / "flights10.vw"
    if not vw.exists():
        with open(vw, "wb") as out:
            for _ in range(COPIES):
                with open(flags.folder / "flights.vw", "rb") as one:
                    shutil.copyfileobj(one, out)
    with open(svm, "rb") as text:
        examples = COPIES * sum(1 for _ in text)
    commands = {
        "gradwire": [str(PROGRAM), "train", "lr", "--solver", "ftrl", "--workers", "2", "--servers", "2",
                     "--train", ",".join([str(svm)] * COPIES)],
        "vw": [sys.executable, "-c", VW, str(vw)],
    }
    runs = {name: [] for name in commands}
    for _ in range(flags.runs):
        for name, command in commands.items():
            runs[name].append(timed(command))
    for name, measured in runs.items():
        wall, cpu = (statistics.median(column) for column in zip(*measured))
        spread = " ".join(f"{seconds:.2f}" for seconds, _ in measured)
        print(f"{name:9} {examples / wall / 1e6:.2f} M examples/s, median {wall:.2f} s of [{spread}], {cpu:.2f} s of processors")
    ratio = statistics.median(v[0] / g[0] for v, g in zip(runs["vw"], runs["gradwire"]))
    print(f"vw's time over gradwire's, median of pairs: {ratio:.2f}")


main()
