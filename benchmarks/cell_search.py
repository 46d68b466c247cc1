"""Does a search by real, short training find a good cell? NAS-Bench-201 on CIFAR-10 images, over REST.

    python benchmarks/cell_search.py DATA_FOLDER

serves Archsmith in a temporary folder, submits the search, follows it, and holds what it trained against the
published accuracies, which the search itself never sees. The folder holds CIFAR-10 (or its 12,000-image
subset `cifar10_12k.npz`) and the table of NAS-Bench-201. See --help for how much is trained.
"""

import argparse
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import kendalltau, spearmanr

from search_spaces import find
from server.client import Client
from server.demo import serving
from workers.evaluators.tables import Table, open_table

SPACE = find("nasbench201")


def search(client: Client, request: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The candidates that were trained, as they ended. Raises RuntimeError where the search fails."""
    job = client.submit(request)
    print(f"job {job['id']}", flush=True)
    for event in client.events(job["id"]):
        if event["kind"] in ("candidate.completed", "candidate.failed"):
            print(f"  {event['kind']} {event['data']['metrics'] or event['data'].get('reason')}", flush=True)
    job = client.job(job["id"])
    if job["state"] != "succeeded":
        raise RuntimeError(f"the search {job['state']}: {job['reason']}")
    print(f"{job['reason']}; {job['running_seconds']:.0f} s of running")
    return list(client.candidates(job["id"], state="completed"))


def report(candidates: Sequence[Mapping[str, Any]], table: Table) -> None:
    """What was trained beside what was published: the winner, its rank, and rank correlations."""
    published = table.columns["test_accuracy"]
    truth = [published[table.rows[SPACE.parse_key(each["key"]).genes]] for each in candidates]
    trained = [each["metrics"]["val_accuracy"] for each in candidates]
    order = sorted(range(len(candidates)), key=lambda index: -trained[index])
    print("trained %  published %  rank of 15,625  MACs      origin               cell")
    for index in order:
        each, rank = candidates[index], 1 + sum(value > truth[index] for value in published)
        print(
            f"{trained[index]:9.2f}  {truth[index]:11.2f}  {rank:14,}  {each['macs'] / 1e6:6.1f} M  "
            f"{each['origin']:19}  {each['key']}"
        )
    macs = [each["macs"] for each in candidates]
    for name, values in (("trained accuracy", trained), ("MACs", macs)):
        rho, tau = spearmanr(values, truth).statistic, kendalltau(values, truth).statistic
        print(f"{name} against published accuracy: Spearman {rho:.2f}, Kendall {tau:.2f}")
    print(
        f"published accuracy: winner {truth[order[0]]:.2f}, best tried {max(truth):.2f}, mean of those tried "
        f"{sum(truth) / len(truth):.2f}, median of all {sorted(published)[len(published) // 2]:.2f}, "
        f"best of all {max(published):.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--method", default="surrogate")
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--images", type=int, help="of the training images; all, if left out")
    parser.add_argument("--side", type=int, default=16, help="of the images, as they are trained on")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    evaluator = {
        "kind": "train",
        "epochs": given.epochs,
        "train_images": given.images,
        "side": given.side,
        "augment": False,
        "batch": 16,
        "learning_rate": 0.015,
    }
    request = {
        "kind": "search",
        "method": given.method,
        "space": SPACE.name,
        "dataset": "cifar10",
        "seed": given.seed,
        "budget": {"evaluations": given.evaluations},
        "config": {"evaluator": evaluator},
    }
    table = open_table(SPACE, "cifar10", given.data)
    os.environ["ARCHSMITH_DATA_ROOT"] = str(given.data.absolute())
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as url, Client(url) as client:
        report(search(client, request), table)


if __name__ == "__main__":
    main()
