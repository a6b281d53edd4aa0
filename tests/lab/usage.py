"""Runs a command and writes what the kernel counted for it, as JSON, to a file: usage.py FILE COMMAND...

A process of its own, because Linux carries the greatest resident memory of the process that
forked over into the one that was started: below a large parent every command looks as large.
"""

import json
import os
import sys

report, *command = sys.argv[1:]
_, status, usage = os.wait4(os.posix_spawn(command[0], command, os.environ), 0)
with open(report, "w") as file:
    # Linux counts ru_maxrss in KiB.
    json.dump({"processor_seconds": usage.ru_utime + usage.ru_stime, "peak_rss": usage.ru_maxrss << 10}, file)
sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)
