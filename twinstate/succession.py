"""Whether one library may take another's place in mid-stream, without telling the log again from its beginning.

Accepted records stay as they were read, in canonical units and folded windows; closed evaluation points stay as they
were decided. So what those mean must not change under them. Parameters, default models, limits of thresholds and
whatever is added are free.
"""

from __future__ import annotations

from collections.abc import Iterator

from twinstate.catalogue import Gene
from twinstate.drug import DrugModel
from twinstate.library import Library


def breaches(before: Library, after: Library) -> list[str]:
    """Say why `after` may not follow `before` in mid-stream; empty when it may.

    Args:
        before: Under which the records were accepted.
        after: The one to take effect.
    """
    return [*_policy(before, after), *_drugs(before, after), *_catalogue(before, after)]


def _policy(before: Library, after: Library) -> Iterator[str]:
    if after.policy != before.policy:
        yield "risk.yaml differs: its limits hold for the whole story of an episode"


def _drugs(before: Library, after: Library) -> Iterator[str]:
    for name, old in before.drugs.items():
        new = after.drugs.get(name)
        if new is None:
            yield f"drug {name} is missing: patients have its doses"
            continue
        missing = [route for route in old.routes if route not in new.routes]
        if missing:
            yield f"{new.model} describes no {' or '.join(missing)} doses, which {old.model} does"
        gone = sorted(_thresholds(old) - _thresholds(new))
        if gone:
            yield f"{new.model} lacks the threshold {', '.join(gone)}: an episode of it could never end"


def _thresholds(model: DrugModel) -> set[str]:
    return {threshold.name for threshold in model.thresholds}


def _catalogue(before: Library, after: Library) -> Iterator[str]:
    for slug, signal in before.signals.items():
        new = after.signals.get(slug)
        same = new is not None and (new.unit, new.resolution, new.reject, new.keep_h) == (
            signal.unit,
            signal.resolution,
            signal.reject,
            signal.keep_h,
        )
        if not same:
            yield f"signal {slug}: unit, resolution, reject and keep must stay, its windows are folded by them"
    for slug, analyte in before.analytes.items():
        other = after.analytes.get(slug)
        if other is None or other.unit != analyte.unit:
            yield f"analyte {slug}: must be there in {analyte.unit}, levels are kept in it"
    for slug, covariate in before.covariates.items():
        found = after.covariates.get(slug)
        if found is None or (found.kind, found.unit) != (covariate.kind, covariate.unit):
            yield f"covariate {slug}: must be there as a {covariate.kind} {covariate.unit}".rstrip()
        elif not set(covariate.categories) <= set(found.categories):
            yield f"covariate {slug}: must keep its words {', '.join(covariate.categories)}"
    for symbol, gene in before.genes.items():
        if not _reads_all(gene, after.genes.get(symbol)):
            yield f"gene {symbol}: must read every diplotype it read before"


def _reads_all(gene: Gene, other: Gene | None) -> bool:
    if other is None or bool(gene.words) != bool(other.words):
        return False
    return set(gene.words) <= set(other.words)
