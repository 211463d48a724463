"""`pytensor-rt plan MODEL`."""

from __future__ import annotations

import argparse

from .common import describe, make_inputs, open_session


def command(args: argparse.Namespace) -> int:
    """Plan for the given or random inputs (one run, so that data-dependent segments are planned too) and print the result."""
    session = open_session(args)
    feeds = make_inputs(session, args)
    session.run(None, feeds)
    report = session.plan_report()
    for name, value in feeds.items():
        print(f"input           {name}: {describe(value).split('  ')[0]}")
    print(report)
    print(f"{'kernels':<15} {session.isa}, at most {session.threads} threads\n")
    print(report.table())
    return 0
