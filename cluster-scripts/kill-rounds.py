#!/usr/bin/env python3
"""Kills or stops a random server of a running cluster, round after round, while `gradwire bench ledger` pushes.

    cargo build --release
    cluster-scripts/kill-rounds.py [--rounds 100] [--servers 3] [--replicas 2] [--fault kill|stop] [--seed 1]
                                   [--lease-ms 100] [--program target/release/gradwire] [--report FILE]

Each round: a ledger of `--seconds` over the whole cluster, the fault at a random time in its middle, then the server is
started again (or woken) and every chain gets its copies back. Stops are more than 10 s apart: in that time the coordinator
removes at most a third of the servers on suspicion. Prints every round: what was sent and acknowledged, what was
lost or duplicated, and the longest time from a push's first send to its acknowledgement. Exits 1 unless nothing was lost,
nothing duplicated and every push has an outcome.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time

PATIENCE = 120
# The coordinator's window of suspicion, and some more.
SUSPICION_S = 10.5


def start(program, *args):
    process = subprocess.Popen([program, *args], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    address = process.stdout.readline().strip()
    if not address:
        sys.exit(f"kill-rounds.py: {' '.join(args)} ended at once; run it by hand to see why")
    return process, address


def complete(program, coordinator, servers):
    """Waits until every chain has its copies; status exits 0 then."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        asked = subprocess.run([program, "status", "--cluster", coordinator, "--json"], capture_output=True, text=True)
        if asked.returncode == 0:
            states = [server["state"] for server in json.loads(asked.stdout)["servers"]]
            if states.count("serving") == servers:
                return
        time.sleep(0.05)
    sys.exit(f"kill-rounds.py: the cluster has not healed after {PATIENCE} s; see `gradwire status --cluster {coordinator}`")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--rounds", type=int, default=100)
    options.add_argument("--servers", type=int, default=3)
    options.add_argument("--replicas", type=int, default=2)
    options.add_argument("--seconds", type=float, default=2)
    options.add_argument("--fault", choices=["kill", "stop"], default="kill")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--lease-ms", type=int, default=100)
    options.add_argument("--program", default="target/release/gradwire")
    options.add_argument("--report")
    given = options.parse_args()
    program = os.path.abspath(given.program)
    chance = random.Random(given.seed)
    rounds, children = [], []
    with tempfile.TemporaryDirectory() as directory:
        store = f"file:{directory}/store"
        coordinator, address = start(
            program, "coordinator", "--listen", "127.0.0.1:0", "--store", store, "--replicas", str(given.replicas),
            "--lease-ms", str(given.lease_ms), "--heartbeat-ms", str(given.lease_ms // 4))
        children.append(coordinator)
        serve = lambda: start(program, "server", "--coordinator", address, "--listen", "127.0.0.1:0")[0]
        try:
            servers = [serve() for _ in range(given.servers)]
            for number in range(given.rounds):
                complete(program, address, given.servers)
                report = f"{directory}/{number}.json"
                ledger = subprocess.Popen(
                    [program, "bench", "ledger", "--cluster", address, "--seconds", str(given.seconds), "--report", report],
                    stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
                time.sleep(given.seconds * chance.uniform(0.4, 0.8))
                victim = chance.randrange(len(servers))
                fault_at = time.monotonic()
                if given.fault == "kill":
                    servers[victim].kill()
                    servers[victim].wait()
                else:
                    servers[victim].send_signal(signal.SIGSTOP)
                    time.sleep(1)
                    servers[victim].send_signal(signal.SIGCONT)
                complaint = ledger.communicate()[1].strip().splitlines()
                if not os.path.exists(report):
                    sys.exit(f"kill-rounds.py: round {number}: the ledger wrote no report: {complaint[-1:]}")
                with open(report) as file:
                    found = json.load(file)
                found = {field: found[field] for field in
                         ["sent", "acked", "unknown", "lost", "duplicated", "longest_stall_ms"]}
                rounds.append(found)
                print(f"round {number + 1:3}  server {victim + 1}  " +
                      "  ".join(f"{field} {value:.1f}" if isinstance(value, float) else f"{field} {value}"
                                for field, value in found.items()), flush=True)
                if given.fault == "kill":
                    servers[victim] = serve()
                else:
                    time.sleep(max(0.0, fault_at + SUSPICION_S - time.monotonic()))
        finally:
            for child in [*locals().get("servers", []), *children]:
                child.kill()
                child.wait()
    stalls = sorted(found["longest_stall_ms"] for found in rounds)
    whole = all(found["lost"] == found["duplicated"] == found["unknown"] == 0 for found in rounds)
    print(f"{len(rounds)} rounds: stall median {statistics.median(stalls):.0f} ms, "
          f"99 of 100 {stalls[min(len(stalls) - 1, int(len(stalls) * 0.99))]:.0f} ms, longest {stalls[-1]:.0f} ms; "
          f"lost {sum(found['lost'] for found in rounds)}, duplicated {sum(found['duplicated'] for found in rounds)}, "
          f"unknown {sum(found['unknown'] for found in rounds)} of {sum(found['sent'] for found in rounds)} pushes")
    if given.report:
        with open(given.report, "w") as file:
            json.dump(rounds, file, indent=1)
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
