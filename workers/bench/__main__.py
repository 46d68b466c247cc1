"""The slow proofs: `python -m workers.bench NAME [OPTIONS]` runs one and writes its report."""

import importlib
import logging
import sys

BENCHES = {
    "ablation": "workers.bench.ablation",
    "diffnas": "workers.bench.diffnas",
    "rfid": "workers.bench.rfid",
    "scalenet": "workers.bench.scalenet",
    "tabular": "workers.bench.tabular_command",
}


def main() -> int:
    names = ", ".join(sorted(BENCHES))
    if len(sys.argv) < 2 or sys.argv[1] not in BENCHES:
        sys.stderr.write(f"usage: python -m workers.bench NAME [OPTIONS]; NAME is one of {names}\n")
        return 0 if sys.argv[1:] in ([], ["--help"], ["-h"]) else 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    report = importlib.import_module(BENCHES[sys.argv[1]]).main(sys.argv[2:])
    sys.stdout.write(f"{report}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
