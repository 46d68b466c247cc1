"""Whether the worker of this host has reported itself to the database lately; ends with status 1 if not."""

import socket
import sys
from datetime import timedelta

from server.store.records import now
from server.store.settings import StoreSettings

LATELY = timedelta(seconds=60)


def main() -> int:
    workers = StoreSettings().store().workers()
    seen = [worker.seen_at for worker in workers if worker.host == socket.gethostname()]
    return 0 if seen and now() - max(seen) < LATELY else 1


if __name__ == "__main__":
    sys.exit(main())
