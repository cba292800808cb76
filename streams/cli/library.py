"""Commands that say what can be sent, and what the models know."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.application import AsJson, UserError, app, console, settings, show_json, show_table

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
    """Every drug model: whom it was built on, what it needs, what it raises.

    Examples: `twin drugs`, `twin drugs show vancomycin`
    """
    if ctx.invoked_subcommand is not None:
        return
    rows = _library().describe_drugs()
    if as_json:
        show_json(json.dumps([row._asdict() for row in rows], indent=2, ensure_ascii=False))
        return
    show_table(
        "Drug models (numbers by status: V verified in the source, C computed, R recalled, A assumed)",
        ("drug", "model", "routes", "covariates", "signal", "raises", "built on", "numbers"),
        (
            (
                row.drug,
                row.model + ("" if row.default else " (not the default)"),
                ", ".join(row.routes),
                ", ".join(row.covariates),
                row.signal or "",
                "; ".join(row.thresholds) or "nothing",
                row.population,
                " ".join(f"{n} {status}" for status, n in row.statuses.items()),
            )
            for row in rows
        ),
    )


@drugs_app.command("show")
def show(
    model: Annotated[str, typer.Argument(help="A drug, or a model's file name.")], as_json: AsJson = False
) -> None:
    """One model as its paper has it: parameters, variability, domain, thresholds, and how far each number was checked.

    Example: `twin drugs show vancomycin`
    """
    library = _library()
    found = library.models.get(model) or library.drugs.get(model)
    if found is None:
        known = ", ".join(sorted(library.models))
        raise UserError(f"there is no drug or model {model!r}; there are {known}")
    if as_json:
        row = next(r for r in library.describe_drugs() if r.model == found.model)
        parameters = [
            {"name": p.name, "typical": p.typical, "unit": p.unit, "status": p.provenance.status}
            for p in found.parameters.values()
        ]
        show_json(json.dumps({**row._asdict(), "parameters": parameters}, indent=2, ensure_ascii=False))
        return
    _card(found)


def _card(model: DrugModel) -> None:
    out = console()
    out.print(f"{model.model}: {model.source}", markup=False, style="bold")
    out.print(f"Built on: {model.population}", markup=False)
    routes = " or ".join(model.routes)
    out.print(
        f"{model.compartments} compartment{'s' if model.compartments > 1 else ''}, {routes}; level: {model.analyte}, "
        f"SD^2 = ({model.residual.proportional:g} x level)^2 + ({model.residual.additive:g} mg/L)^2",
        markup=False,
    )
    variances = {name: model.omega[i, i] for i, name in enumerate(model.etas)}
    show_table(
        "Parameters",
        ("parameter", "typical>", "unit", "between patients (SD of log)>", "changes with", "status"),
        (
            (
                p.name,
                f"{p.typical:g}",
                p.unit,
                f"{variances[p.name] ** 0.5:.3f}" if p.name in variances else "",
                ", ".join(_cause(effect) for effect in p.effects),
                p.provenance.status,
            )
            for p in model.parameters.values()
        ),
    )
    show_table(
        "Thresholds",
        ("name", "crossed when", "within (h)>", "what is feared", "status", "source"),
        (
            (t.name, f"{t.metric} > {t.limit:g} {t.unit}", f"{t.horizon_h:g}", t.harm, t.status, t.source)
            for t in model.thresholds
        ),
    )
    out.print(
        f"A dose or level counts for {model.keep_h:g} h; stale after {model.stale_after_h:g} h without one."
    )
    for note in model.notes:
        out.print(f"- {note}", markup=False)


def _cause(effect: object) -> str:
    condition = getattr(effect, "condition", None)
    name = getattr(effect, "covariate", None) or getattr(effect, "gene", None)
    return str(name or (condition.covariate if condition is not None else type(effect).__name__))


def _library() -> Library:
    from twinstate.library import load_library

    return load_library(settings().paths.library)
