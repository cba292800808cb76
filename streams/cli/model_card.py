"""A model card on the terminal."""

from __future__ import annotations

from streams.cli.application import console, show_table
from streams.model_card import Card, LimitRow
from streams.model_words import STATUS_WORDS


def show_card(card: Card) -> None:
    """Print a model card."""
    out = console()
    default = "" if card.default else ", not the default"
    out.print(f"{card.model} ({card.drug}{default}): {card.readiness}", markup=False, style="bold")
    for sentence in card.unknown:
        out.print(f"Unknown: {sentence}", markup=False, style="yellow")
    lines = [
        f"Source: {card.source}",
        f"Read in: {card.transcription}",
        f"Built on: {card.population}",
        f"Structure: {card.structure}",
        *card.observed,
    ]
    if card.channel:
        lines.append(f"Wearable signal: {card.channel}")
    for line in lines:
        out.print(line, markup=False)
    show_table(
        "Parameters",
        ("parameter", "typical>", "unit", "CV between patients>", "changes with", "status"),
        (
            (
                row.name,
                f"{row.typical:.6g}",
                row.unit,
                _spread(row.cv, row.occasion_cv, row.status, row.variability_status),
                "\n".join(row.changes_with),
                STATUS_WORDS[row.status],
            )
            for row in card.parameters
        ),
    )
    for first, second, value in card.correlations:
        out.print(f"Correlation of {first} and {second}: {value:.3g}", markup=False)
    out.print(f"Within a patient: {card.within_patient}", markup=False)
    domain = "; ".join(card.domain) or "not found in the source, so nobody is out of it"
    out.print(f"Domain: {domain}", markup=False)
    _show_limits("Targets", card.targets)
    _show_limits("Thresholds", card.thresholds)
    if not card.thresholds:
        out.print("No threshold: nothing is raised.", markup=False)
    out.print(
        f"A dose or level counts for {card.keep_h:g} h; stale after {card.stale_after_h:g} h without one.",
        markup=False,
    )
    out.print(f"Typical patient: {card.typical_patient}", markup=False)
    for check in card.checks:
        out.print(f"Recomputed on load: {check}", markup=False)
    if card.unverified:
        out.print(f"Unverified: {', '.join(card.unverified)}", markup=False, style="yellow")
    if card.assumed:
        out.print(f"Assumed: {', '.join(card.assumed)}", markup=False)
    for note in card.notes:
        out.print(f"- {note}", markup=False)


def _spread(cv: float | None, occasion: float | None, status: str, variability_status: str) -> str:
    if cv is None:
        return ""
    text = f"{100 * cv:.3g} %"
    if variability_status != status:
        text += f" ({STATUS_WORDS[variability_status]})"
    return text + (f"\n{100 * occasion:.3g} % between occasions" if occasion else "")


def _show_limits(title: str, rows: tuple[LimitRow, ...]) -> None:
    if not rows:
        return
    show_table(
        title,
        ("what", "within (h)>", "meaning", "status", "source"),
        (
            (
                row.text,
                "" if row.horizon_h is None else f"{row.horizon_h:g}",
                row.note,
                STATUS_WORDS[row.status],
                row.source,
            )
            for row in rows
        ),
    )
