"""Maps continual learning of language models by training stage, by direction of change (from general to special, or
over time) and by technique, with the metrics and protocols that tell what was forgotten."""

from __future__ import annotations

from collections.abc import Sequence

from palimpsest.claim import Budget, Claim, Evidence, Paper

PAPER = Paper(
    "Continual Learning of Large Language Models: A Comprehensive Survey",
    "Haizhou Shi et al.",
    2024,
    arxiv="2404.16789",
    venue="ACM Computing Surveys 2025",
    tags=("retain", "continual-learning", "survey", "language-model"),
    summary=(
        "Maps continual learning of language models by training stage, by direction of change (from general to "
        "special, or over time) and by technique, with the metrics and protocols that tell what was forgotten."
    ),
)
PARTS: tuple[str, ...] = ("continual",)

TAUGHT = (None, 1, 2, 3)
"""Of the columns: general facts, which no stage teaches, and the facts of three stages."""


class ReplayStandsBetween(Claim):
    """The survey's protocol on a tiny decoder: 60 general facts are known, then three stages teach 60 facts each.

    After each stage the recall of all four sets is measured, for plain fine-tuning in sequence, replay of half of what
    came before, and joint training on all of it; each seed has an order of stages of its own.  Shown when the
    sequence's forgetting (maximum over earlier stages) exceeds replay's by more than 0.1, joint training's overall
    performance exceeds replay's and replay's the sequence's, each by more than 0.1, and the sequence loses more than
    0.1 of the general facts; in part when it does not also forget more for each fact gained (FUAR) than replay.
    """

    says = "Sequential fine-tuning forgets most, joint training least, and replay lies between them."

    def run(self, budget: Budget, seeds: Sequence[int]) -> Evidence:
        """The figures of each method have intervals over facts and seeds; differences have them over seeds."""
        from palimpsest import continual
        from palimpsest.claims._evidence import Condition, evidence, figure, over_seeds
        from palimpsest.claims._facts import device_of
        from palimpsest.claims._stages import STREAMS, stream_cells

        device = device_of(budget)
        cells = {method: [stream_cells(method, seed, device) for seed in seeds] for method in STREAMS}
        known = (0, *TAUGHT[1:])  # for FUAR the general facts are an earlier task
        values: dict[tuple[str, str], list[float]] = {}
        for method, runs in cells.items():
            found = [continual.figures(continual.matrix_of(run, TAUGHT)) for run in runs]
            fuar = [continual.forgotten_per_gained(continual.matrix_of(run, known)) for run in runs]
            for name in ("forgetting_max", "overall_performance", "held_out_change"):
                values[method, name] = [float(f[name] or 0.0) for f in found]
            values[method, "fuar"] = [float(v) for v in fuar if v is not None]

        def minus(name: str, one: str, other: str) -> list[float]:
            return [a - b for a, b in zip(values[one, name], values[other, name], strict=True)]

        lost, overall = "forgetting_max", "overall_performance"
        general = over_seeds(values["sequential", "held_out_change"])
        conditions = [
            Condition("forgetting, sequence minus replay", over_seeds(minus(lost, *STREAMS[:2])), "above", 0.1),
            Condition("performance, joint minus replay", over_seeds(minus(overall, "joint", "replay")), "above", 0.1),
            Condition(
                "performance, replay minus sequence", over_seeds(minus(overall, "replay", "sequential")), "above", 0.1
            ),
            Condition("change of the general facts in sequence", general, "below", -0.1),
            Condition("FUAR, sequence minus replay", over_seeds(minus("fuar", "sequential", "replay")), "above", 0.0),
        ]
        figures = []
        for method, runs in cells.items():
            for name, interval in continual.intervals(runs, TAUGHT).items():
                if interval is not None:
                    figures.append(figure(f"{name.replace('_', ' ')}, {method}", interval))
        return evidence(conditions, figures, {"stages": 3, "facts of a stage": 60}, needed=4)
