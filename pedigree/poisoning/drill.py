"""A drill: plant known attacks in a copy of a table, and see what the checks would have caught.

A team learns its blind spots before an attacker does. The judge is whatever runs the configured
checks; the answer for each attack is its detection floor: the smallest number of planted rows that
would have raised an alarm with the demanded power::

    result = run_drill(texts, labels, judge, ["rare_word"], counts=[10, 20, 50], seeds=20, seed=1)
    result.floors["rare_word"].count      # 20, or None: not reached up to 50
"""

import io
import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from pedigree.digests import JSON
from pedigree.errors import PedigreeError
from pedigree.evidence.check_limits import DrillLimits
from pedigree.findings import CheckResult
from pedigree.poisoning.attacks import ATTACKS, Plant

CHECK = "detection_floor"
_TARGETS = 10  # labels that are tried before an attack is given up
Judge: TypeAlias = Callable[[list[str], list[str]], Sequence[CheckResult]]


@dataclass(frozen=True)
class DrillCell:
    """One attack with one number of planted rows, over all seeds.

    Attributes:
        attack: its name.
        count: planted rows.
        seeds: drills that were run; 0 where nothing could be planted.
        alarms: drills in which a check failed that passes on the untouched table.
        tpr: mean share of planted rows that a finding of WARN or ERROR names.
        fpr: mean share of the other rows that one names.
        checks: how often each check raised the alarm.
        reason: why nothing could be planted.
    """

    attack: str
    count: int
    seeds: int
    alarms: int
    tpr: float
    fpr: float
    checks: Mapping[str, int]
    reason: str = ""


@dataclass(frozen=True)
class Floor:
    """The detection floor of one attack.

    Attributes:
        count: smallest tested number of rows from which on the power is confirmed; None: not
            reached, or not confirmed with so few seeds.
        observed: the same by the plain share of alarms, without confidence.
        lower_bound: what the power is at least, at `count`, or else at the largest tested number.
        largest: the largest number of rows that was planted.
    """

    count: int | None
    observed: int | None
    lower_bound: float
    largest: int


@dataclass(frozen=True)
class DrillResult:
    """What a drill found; `baseline` names the checks that fail on the untouched table."""

    rows: int
    cells: tuple[DrillCell, ...]
    floors: Mapping[str, Floor]
    baseline: tuple[str, ...]
    baseline_fpr: float
    power: float
    confidence: float

    def to_records(self) -> list[dict[str, JSON]]:
        """Return one record for each attack and number of planted rows."""
        return [
            {
                "attack": cell.attack,
                "planted_rows": cell.count,
                "drills": cell.seeds,
                "alarm_rate": round(cell.alarms / cell.seeds, 4) if cell.seeds else None,
                "tpr": round(cell.tpr, 4) if cell.seeds else None,
                "fpr": round(cell.fpr, 6) if cell.seeds else None,
                "checks": dict(cell.checks),
                "floor": self.describe_floor(cell.attack),
                "not_planted": cell.reason,
            }
            for cell in self.cells
        ]

    def describe_floor(self, attack: str) -> str:
        """Say in words from how many rows on an attack would have been seen."""
        floor = self.floors[attack]
        if floor.count is not None:
            return (
                f"{floor.count} rows or more: power {self.power:g} with confidence "
                f"{self.confidence:g}"
            )
        if floor.observed is not None:
            needed = count_seeds(self.power, self.confidence)
            return (
                f"{floor.observed} rows or more by the share of alarms; power {self.power:g} is "
                f"confirmed only from {needed} drills without a miss"
            )
        return f"not reached up to {floor.largest} rows" if floor.largest else "not planted"

    def plot(self) -> bytes:
        """Return a PNG: the alarm rate of each attack against the number of planted rows."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        names = list(self.floors)
        columns = min(4, max(1, len(names)))
        lines = max(1, math.ceil(len(names) / columns))
        figure = Figure(figsize=(3.2 * columns, 2.6 * lines + 0.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True).ravel()
        for panel, name in zip(axes, names, strict=False):
            cells = [cell for cell in self.cells if cell.attack == name and cell.seeds]
            counts = [cell.count for cell in cells]
            panel.plot(counts, [c.alarms / c.seeds for c in cells], "o-", label="alarm rate")
            panel.plot(counts, [c.tpr for c in cells], "s--", label="planted rows named")
            panel.axhline(self.power, color="grey", linewidth=0.8, linestyle=":")
            floor = self.floors[name].count
            if floor is not None:
                panel.axvline(floor, color="grey", linewidth=0.8)
            panel.set(title=name, xscale="log", ylim=(-0.05, 1.05))
            panel.set_xticks(counts, labels=[str(count) for count in counts])
            panel.minorticks_off()
        for panel in axes[len(names) :]:
            panel.set_axis_off()
        figure.supxlabel(f"planted rows (table of {self.rows} rows)")
        if names:
            axes[0].legend(fontsize=7)
        out = io.BytesIO()
        figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
        return out.getvalue()

    def judge_floors(self, limits: DrillLimits) -> CheckResult:
        """Return the verdict `detection_floor`: is each attack seen from the demanded number on?"""
        if not any(cell.seeds for cell in self.cells):
            reason = self.cells[0].reason if self.cells else "no attack was drilled"
            return CheckResult(
                CHECK, True, f"not applicable: {reason}", {"applicable": False, "rows": self.rows}
            )
        missed = [name for name, most in limits.max_floor.items() if not self._meets(name, most)]
        floors: dict[str, JSON] = {name: floor.count for name, floor in self.floors.items()}
        return CheckResult(
            CHECK,
            not missed,
            "; ".join(f"{name}: {self._compare(name, limits)}" for name in missed or self.floors)
            + (
                ". Lower the thresholds of the checks, add one, or drill with more seeds."
                if missed
                else "."
            ),
            {
                "applicable": True,
                "rows": self.rows,
                "floors": floors,
                "observed_floors": {n: floor.observed for n, floor in self.floors.items()},
                "missed": missed,
                "baseline_failures": list(self.baseline),
                "baseline_fpr": self.baseline_fpr,
                "power": self.power,
                "confidence": self.confidence,
            },
            examples=tuple(self.to_records()[:20]),
        )

    def _meets(self, attack: str, most: int) -> bool:
        floor = self.floors.get(attack)
        return floor is not None and floor.count is not None and floor.count <= most

    def _compare(self, attack: str, limits: DrillLimits) -> str:
        words = self.describe_floor(attack) if attack in self.floors else "not drilled"
        most = limits.max_floor.get(attack)
        return words if most is None else f"{words} (the policy demands {most})"


def run_drill(
    texts: Sequence[str],
    labels: Sequence[str],
    judge: Judge,
    attacks: Sequence[str],
    counts: Sequence[int],
    seeds: int,
    seed: int,
    power: float = 0.95,
    confidence: float = 0.9,
) -> DrillResult:
    """Plant each attack with each count in fresh copies, and let the judge look at every copy.

    Neither `texts` nor `labels` is changed, nor handed to the judge. An alarm is a check that
    fails on the copy and passes on the untouched table: what fails anyway sees nothing.

    Args:
        texts: (rows,) the texts.
        labels: (rows,) their labels.
        judge: runs the configured checks on a table.
        attacks: names of `ATTACKS`.
        counts: numbers of rows to plant.
        seeds: drills for each attack and count; each draws trigger, target and rows anew.
        seed: makes the drill repeatable.
        power: probability of an alarm that a detection floor promises.
        confidence: with which the power is confirmed.

    Raises:
        PedigreeError: an attack is unknown, a number is not positive, or lengths differ.
    """
    _validate(texts, labels, attacks, counts, seeds)
    clean = judge(list(texts), list(labels))
    baseline = tuple(sorted({one.check for one in clean if not one.passed}))
    flagged = _flag(clean)
    cells = tuple(
        _drill(texts, labels, judge, attack, count, seeds, seed, baseline)
        for attack in attacks
        for count in sorted(set(counts))
    )
    floors = {
        attack: find_floor([c for c in cells if c.attack == attack and c.seeds], power, confidence)
        for attack in attacks
    }
    share = len(flagged) / len(texts) if texts else 0.0
    return DrillResult(len(texts), cells, floors, baseline, share, power, confidence)


def _validate(
    texts: Sequence[str],
    labels: Sequence[str],
    attacks: Sequence[str],
    counts: Sequence[int],
    seeds: int,
) -> None:
    unknown = [name for name in attacks if name not in ATTACKS]
    if unknown:
        raise PedigreeError(
            f"No attack is called {', '.join(map(repr, unknown))}: known are {', '.join(ATTACKS)}."
        )
    if len(texts) != len(labels):
        raise PedigreeError(
            f"There are {len(texts)} texts and {len(labels)} labels: give one of each a row."
        )
    if seeds < 1 or not counts or min(counts) < 1:
        raise PedigreeError(
            f"A drill needs at least one seed and counts of at least 1: found {seeds} seeds and "
            f"counts {list(counts)}."
        )


def _drill(
    texts: Sequence[str],
    labels: Sequence[str],
    judge: Judge,
    attack: str,
    count: int,
    seeds: int,
    seed: int,
    baseline: tuple[str, ...],
) -> DrillCell:
    alarms, tpr, fpr = 0, 0.0, 0.0
    checks: Counter[str] = Counter()
    for one in range(seeds):
        # The same drill whatever else is drilled with it.
        draw = random.Random(f"{seed}/{attack}/{count}/{one}")  # noqa: S311
        try:
            plant = _plant(texts, labels, attack, count, draw)
        except PedigreeError as error:
            return DrillCell(attack, count, 0, 0, 0.0, 0.0, {}, str(error))
        results = judge(list(plant.texts), list(plant.labels))
        failed = {result.check for result in results if not result.passed} - set(baseline)
        checks.update(failed)
        flagged, planted = _flag(results), set(plant.rows)
        alarms += bool(failed)
        tpr += len(flagged & planted) / len(planted)
        fpr += len(flagged - planted) / max(len(plant.texts) - len(planted), 1)
    return DrillCell(
        attack, count, seeds, alarms, tpr / seeds, fpr / seeds, dict(sorted(checks.items()))
    )


def _plant(
    texts: Sequence[str], labels: Sequence[str], attack: str, count: int, draw: random.Random
) -> Plant:
    names = sorted(set(labels))
    if len(names) < 2:
        raise PedigreeError(
            f"Nothing can be planted: the table has {len(names)} labels, 2 are needed."
        )
    problem = PedigreeError("")
    for target in draw.sample(names, min(_TARGETS, len(names))):
        try:
            return ATTACKS[attack](texts, labels, draw, count, target)
        except PedigreeError as error:  # too few rows of this label: another may have enough
            problem = error
    raise problem


def _flag(results: Sequence[CheckResult]) -> set[int]:
    return {one.row for result in results for one in result.findings if one.severity != "INFO"}


def find_floor(cells: Sequence[DrillCell], power: float, confidence: float) -> Floor:
    """Return the smallest count from which on the power is at least `power`.

    More rows are never harder to see: the power at a count is at least the mean power of the
    counts up to it. So the drills of a run of smaller counts may stand for it, and the exact
    binomial lower bound (Clopper and Pearson 1934) of their alarms bounds it from below. One
    bound is tried for each run that ends at the count, at a confidence shared between them.
    """
    cells = sorted(cells, key=lambda cell: cell.count)
    largest = cells[-1].count if cells else 0
    bounds = [_bound(cells[: i + 1], confidence) for i in range(len(cells))]
    confirmed = next((i for i, bound in enumerate(bounds) if bound >= power), None)
    observed: int | None = None
    for cell in reversed(cells):
        if cell.alarms < power * cell.seeds:
            break
        observed = cell.count
    if confirmed is not None and observed is not None:
        # A larger count that missed speaks against monotone power: only what holds from there on.
        count = max(cells[confirmed].count, observed)
        return Floor(count, observed, bounds[[c.count for c in cells].index(count)], largest)
    return Floor(None, observed, bounds[-1] if bounds else 0.0, largest)


def _bound(cells: Sequence[DrillCell], confidence: float) -> float:
    """Return the best lower bound of the last cell's power from runs that end there."""
    from scipy.stats import beta

    miss = (1 - confidence) / len(cells)
    best, alarms, drills = 0.0, 0, 0
    for cell in reversed(cells):
        alarms, drills = alarms + cell.alarms, drills + cell.seeds
        if alarms:
            best = max(best, float(beta.ppf(miss, alarms, drills - alarms + 1)))
    return best


def count_seeds(power: float, confidence: float) -> int:
    """Return how many drills without a miss confirm a power: (1 - confidence) = power^n."""
    return math.ceil(math.log(1 - confidence) / math.log(power))
