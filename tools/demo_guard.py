"""Wait for the end of the demo, then end the servers that it has left behind.

    python -m tools.demo_guard SERVERS_FOLDER

QEMU is started so that it outlives the worker. The demo shuts its servers off in
order; this is for a demo that was killed and could not.
"""

import signal
import sys
import time
from pathlib import Path

from servers.compute import process
from servers.compute.folder import all_folders


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    servers = Path(sys.argv[1])
    sys.stdin.read()  # until the demo is gone, however it went
    # Twice, since a worker may have been about to start one.
    end_servers(servers)
    time.sleep(0.5)
    end_servers(servers)


def end_servers(servers: Path) -> None:
    for folder in all_folders(servers):
        if found := process.find(folder.pid, folder.id):
            process.kill(found, folder.pid, folder.id)


if __name__ == "__main__":
    main()
