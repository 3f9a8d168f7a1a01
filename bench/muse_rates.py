"""Which learning rate one rule takes for each method in the claims of MUSE, on seeds that the claims do not use.

    python bench/muse_rates.py [--seeds 10 11 12] [--json FILE]

The claims have one rate for all methods; this asks what each method's own would be, by one rule in which the figures of
the claims have no part.  A model is unlearned of all 60 articles as in the claims, up to the epoch at which it answers
no more questions about them than the retrained model.  Of the rates of the grid at which that is reached on every seed,
the one is taken that keeps most of the target's utility, as a mean over the seeds; where there is none, the one with
the fewest answers left.
"""

from __future__ import annotations

import argparse
import copy
import itertools
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

from palimpsest.checkpoint import write_json
from palimpsest.claims._news import METHODS, readers, unlearn
from palimpsest.claims.muse import EPOCHS

GRID = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)


@dataclass(frozen=True)
class Tried:
    """One rate: the seeds on which it forgot enough, answers left beyond the retrained model's, utility kept."""

    rate: float
    reached: int
    answers_left: float
    utility_kept: float


def chosen(tried: list[Tried], seeds: int) -> Tried:
    """What the rule takes."""
    enough = [t for t in tried if t.reached == seeds]
    return max(enough, key=lambda t: t.utility_kept) if enough else min(tried, key=lambda t: t.answers_left)


def outcomes(seed: int) -> dict[tuple[str, float], tuple[float, float]]:
    """(method, rate) -> answers left beyond the retrained model's, and the share of the utility that is kept."""
    read, found = readers("cpu", seed), {}
    rows, asked = read.news.texts("forget"), read.news.asked("forget")
    gold, before = (float(x.items.mean()) for x in (read.knowledge(read.retrained, asked), read.utility(read.target)))
    for method, rate in itertools.product(METHODS, GRID):
        model = unlearn(read, method, copy.deepcopy(read.target), rows, lr=rate, epochs=EPOCHS, seed=seed)
        left = float(read.knowledge(model, asked).items.mean()) - gold
        found[method, rate] = left, float(read.utility(model).items.mean()) / before
    return found


def main() -> None:
    """Prints a line for each method and rate, and writes them where asked to; a process a seed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with ProcessPoolExecutor(len(given.seeds)) as pool:
        by_seed = list(pool.map(outcomes, given.seeds))
    rows = []
    for method in METHODS:
        tried = []
        for rate in GRID:
            left, kept = zip(*(found[method, rate] for found in by_seed))
            tried.append(Tried(rate, sum(x <= 0 for x in left), fmean(left), fmean(kept)))
        best = chosen(tried, len(given.seeds))
        for t in tried:
            rows.append({"method": method, **asdict(t), "chosen": t is best})
            print(
                f"{method:8s} {t.rate:.0e}  forgot on {t.reached} of {len(given.seeds)} seeds, answers left "
                f"{t.answers_left:+.3f}, utility kept {t.utility_kept:.3f}{'  chosen' if t is best else ''}"
            )
    if given.json:
        write_json(given.json, {"rows": rows, "seeds": given.seeds, "most_epochs": EPOCHS})


if __name__ == "__main__":
    main()
