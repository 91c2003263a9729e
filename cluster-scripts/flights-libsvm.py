#!/usr/bin/env python3
"""Writes the bundled flights as text: the input of the measurements in bench/results.

    cluster-scripts/flights-libsvm.py FOLDER

FOLDER gets flights.svm, the training set as libsvm (`1 0:1 12:1 …`: every row whose index is no multiple of ten, late is
1, a feature's index is its number by first appearance in the whole data), flights-test.svm, the other rows, and
flights.vw, the training set in the text format of Vowpal Wabbit with the same names. Features are those of `quickstart`.

Needs Python 3.9 and the `zstd` program.
"""

import csv
import io
import pathlib
import subprocess
import sys

SOURCE = pathlib.Path(__file__).resolve().parent.parent / "src" / "data" / "flights.csv.zst"
FIELDS = [["month"], ["weekday"], ["hour"], ["carrier"], ["origin"], ["dest"], ["tailnum"], ["carrier", "flight"],
          ["origin", "dest"], ["carrier", "dest"], ["dest", "hour"], ["month", "day"]]


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    text = subprocess.run(["zstd", "-dc", str(SOURCE)], check=True, capture_output=True).stdout.decode()
    numbers = {}
    with open(folder / "flights.svm", "w") as train, open(folder / "flights-test.svm", "w") as test, \
            open(folder / "flights.vw", "w") as vw:
        for row, cells in enumerate(csv.DictReader(io.StringIO(text))):
            late = float(cells["arr_delay"]) > 15
            names = [(at, *(cells[column] for column in field)) for at, field in enumerate(FIELDS)]
            indices = sorted(numbers.setdefault(name, len(numbers)) for name in names)
            ones = " ".join(f"{index}:1" for index in indices)
            (test if row % 10 == 0 else train).write(f"{int(late)} {ones}\n")
            if row % 10:
                vw.write(f"{1 if late else -1} | {ones}\n")
    print(f"{row + 1} rows, {len(numbers)} features")


main()
