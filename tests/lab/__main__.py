"""The lab's command line: `python -m lab setup|up|demo`."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import threading
from pathlib import Path

from . import cache, servers
from .instance import LAYOUTS, Instance


def up(args: argparse.Namespace) -> int:
    """Starts an instance, prints its endpoints, and stays until stdin closes."""
    instance = Instance(args.layout, args.dir, auth=args.auth)
    try:
        instance.start()
        print(json.dumps(instance.endpoints(), indent=2), flush=True)
        if args.detached:
            threading.Event().wait()
        sys.stdin.read()
    finally:
        instance.stop()
    return 0


def setup(_: argparse.Namespace) -> int:
    cache.set_up()
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="lab", description=__doc__)
    verbs = parser.add_subparsers(required=True)
    verb = verbs.add_parser("setup", help="build and unpack the servers")
    verb.set_defaults(run=setup)
    verb = verbs.add_parser("up", help="start an instance; it ends when stdin closes")
    verb.add_argument("--layout", choices=LAYOUTS, default="local")
    verb.add_argument("--dir", type=Path, required=True, help="scratch directory; a later start finds its data there")
    verb.add_argument("--auth", action="store_true", help="with authorizationEnabled")
    verb.add_argument("--detached", action="store_true", help="ends at SIGTERM only, not when stdin closes")
    verb.set_defaults(run=up)
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return 130
    finally:
        servers.stop_all()


if __name__ == "__main__":
    sys.exit(main())
