"""The lab's command line: `python -m lab setup|up|exec|demo|scale`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from . import cache, demo, ports, scale, servers
from .instance import LAYOUTS, Instance
from .servers import Minio


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


def exec_command(args: argparse.Namespace) -> int:
    """Runs a command with an etcd and the lab's tools on its PATH and, if asked, a MinIO to test against."""
    path = f"{cache.etcd().parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    with tempfile.TemporaryDirectory(prefix="eyrie-lab-") as directory:
        if args.minio:
            minio = Minio(Path(directory), ports.take(), ports.take())
            minio.start()
            environment |= {
                "EYRIE_TEST_S3_ENDPOINT": minio.url,
                "EYRIE_TEST_S3_ACCESS_KEY_ID": Minio.user,
                "EYRIE_TEST_S3_SECRET_ACCESS_KEY": Minio.password,
            }
        try:
            return subprocess.run(args.command, env=environment).returncode
        finally:
            servers.stop_all()


def run_demo(args: argparse.Namespace) -> int:
    return demo.run(args.storage, args.eyrie.resolve())


def run_scale(args: argparse.Namespace) -> int:
    return scale.run(args.objects, args.large, args.eyrie.resolve(), args.dir)


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
    verb = verbs.add_parser("exec", help="run a command with the lab's etcd and tools on its PATH")
    verb.add_argument("--minio", action="store_true", help="with EYRIE_TEST_S3_* pointing at a MinIO")
    verb.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND ARG…")
    verb.set_defaults(run=exec_command)
    verb = verbs.add_parser("demo", help="back up a Milvus, lose it, restore it, compare")
    verb.add_argument("--storage", choices=LAYOUTS, default="local")
    verb.add_argument("--eyrie", type=Path, required=True, help="the binary")
    verb.set_defaults(run=run_demo)
    verb = verbs.add_parser("scale", help="back up and restore a made instance of any size, with figures")
    verb.add_argument("--objects", type=int, required=True, help="how many objects")
    verb.add_argument("--large", type=int, default=0, help="bytes of one more object")
    verb.add_argument("--dir", type=Path, help="where the data lies; a temporary directory")
    verb.add_argument("--eyrie", type=Path, required=True, help="the binary")
    verb.set_defaults(run=run_scale)
    args = parser.parse_args()
    if getattr(args, "command", None) and args.command[0] == "--":
        args.command = args.command[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return args.run(args)
    except KeyboardInterrupt:
        return 130
    finally:
        servers.stop_all()


if __name__ == "__main__":
    sys.exit(main())
