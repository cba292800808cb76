"""Commands that say what can be sent, and what the models know."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.application import AsJson, UserError, app, say, settings, show_json, show_table

if TYPE_CHECKING:
    from twinstate.drug import DrugModel
    from twinstate.library import Library

LEARN = "Learn what can be sent"

drugs_app = typer.Typer(invoke_without_command=True)
app.add_typer(drugs_app, name="drugs", rich_help_panel=LEARN)


@app.command(rich_help_panel=LEARN)
def signals(as_json: AsJson = False) -> None:
    """Every wearable signal, laboratory analyte and covariate that can be sent, with its units.

    Example: `twin signals --json | jq '.[] | select(.kind == "lab") | .slug'`
    """
    library = _library()
    rows = [
        {
            "kind": row.kind,
            "name": row.slug,
            "title": row.title,
            "loinc": list(row.loinc),
            "units": [row.unit, *(u for u in row.read_units if u != row.unit)],
            "refused": row.reject,
            "usual": row.usual,
            "models": list(row.models),
        }
        for row in library.describe_signals()
    ]
    rows += [
        {
            "kind": "covariate",
            "name": covariate.slug,
            "title": covariate.meaning,
            "loinc": [],
            "units": list(covariate.units) or [covariate.kind],
            "refused": f"outside {covariate.bounds.low:g} to {covariate.bounds.high:g}"
            if covariate.bounds
            else "",
            "usual": ", ".join(covariate.categories),
            "models": [m.model for m in library.models.values() if covariate.slug in m.covariates],
        }
        for covariate in library.covariates.values()
    ]
    if as_json:
        show_json(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    show_table(
        "What can be sent (the first unit is the canonical one)",
        ("kind", "name", "what", "LOINC alias", "units", "refused", "usual", "used by"),
        (
            (
                row["kind"],
                row["name"],
                row["title"],
                ", ".join(row["loinc"]),
                ", ".join(row["units"]),
                row["refused"],
                row["usual"],
                ", ".join(row["models"]),
            )
            for row in rows
        ),
    )


@drugs_app.callback()
def drugs(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Every drug model: whether a twin learns from levels with it, what it needs, what it raises.

    Examples: `twin drugs`, `twin drugs show vancomycin`, `twin drugs show warfarin --plot warfarin.svg`,
    `twin drugs check`
    """
    if ctx.invoked_subcommand is not None:
        return
    from streams.model_card import genes_of, readiness_of

    library = _library()
    rows = library.describe_drugs()
    if as_json:
        listed = [
            {
                **row._asdict(),
                "readiness": readiness_of(library.models[row.model]),
                "genes": list(genes_of(library.models[row.model])),
                "unknown": list(library.models[row.model].unknown),
            }
            for row in rows
        ]
        show_json(json.dumps(listed, indent=2, ensure_ascii=False))
        return
    show_table(
        "Drug models (numbers by status: V verified in the source, C computed, R recalled and unverified, A assumed, "
        "U unknown)",
        ("drug", "model", "a twin", "routes", "covariates and genes", "signal", "raises", "numbers"),
        (
            (
                row.drug,
                row.model + ("" if row.default else " (not the default)"),
                readiness_of(library.models[row.model]),
                ", ".join(row.routes),
                ", ".join((*row.covariates, *genes_of(library.models[row.model]))),
                row.signal or "",
                "; ".join(row.thresholds) or "nothing",
                " ".join(f"{n} {status}" for status, n in row.statuses.items()),
            )
            for row in rows
        ),
    )
    say("A gene in brackets may stay untold. `twin drugs show DRUG` prints a model card.")


@drugs_app.command("show")
def show(
    model: Annotated[str, typer.Argument(help="A drug, or a model's file name.")],
    as_json: AsJson = False,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", help="Draw the typical patient at a usual dose as SVG.", metavar="FILE.svg"),
    ] = None,
) -> None:
    """One model as its paper has it: structure, parameters, variability, domain, limits, and how far each was checked.

    Examples: `twin drugs show vancomycin`, `twin drugs show tacrolimus --plot tacrolimus.svg`
    """
    from streams.cli.model_card import show_card
    from streams.model_card import card_of

    library = _library()
    found = _found(library, model)
    if plot is not None:
        from streams.model_plot import draw_model

        plot.write_bytes(draw_model(found, library))
        say(f"{plot} drawn")
    card = card_of(found, library)
    if as_json:
        show_json(json.dumps(card.as_json(), indent=2, ensure_ascii=False, allow_nan=False))
        return
    show_card(card)


@drugs_app.command("check")
def check(
    model: Annotated[
        str | None, typer.Argument(help="A drug, or a model's file name; all when left out.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Simulate each model's typical patient, and compare the course with what follows from its parameters on paper.

    Every file is checked against its paper's own figures whenever it is loaded. Exit status 1 when a course differs.

    Examples: `twin drugs check`, `twin drugs check warfarin`
    """
    from streams.model_check import check_model

    library = _library()
    models = [_found(library, model)] if model else [m for _, m in sorted(library.models.items())]
    checks = [check_model(found) for found in models]
    if as_json:
        show_json(
            json.dumps([row._asdict() for row in checks], indent=2, ensure_ascii=False, allow_nan=False)
        )
    else:
        show_table(
            "Usual doses simulated",
            (
                "model",
                "figures recomputed>",
                "highest>",
                "lowest after>",
                "what",
                "simulated>",
                "on paper>",
                "verdict",
            ),
            (
                (
                    row.model,
                    row.figures,
                    f"{row.highest_mg_L:.3g} mg/L",
                    f"{row.lowest_mg_L:.3g} mg/L",
                    row.what,
                    f"{row.simulated:.5g}",
                    f"{row.expected:.5g}",
                    row.verdict,
                )
                for row in checks
            ),
        )
    if any(row.verdict != "agrees" for row in checks):
        raise typer.Exit(1)


def _found(library: Library, name: str) -> DrugModel:
    found = library.models.get(name) or library.drugs.get(name)
    if found is None:
        raise UserError(f"there is no drug or model {name!r}; there are {', '.join(sorted(library.models))}")
    return found


def _library() -> Library:
    from twinstate.library import load_library

    return load_library(settings().paths.library)
