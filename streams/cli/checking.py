"""`twin doctor`: what is wrong with this deployment, and what to do."""

from __future__ import annotations

import json

import typer

from streams.cli.application import AsJson, app, settings, show_json, show_table


@app.command(rich_help_panel="Ask")
def doctor(as_json: AsJson = False) -> None:
    """Look at broker, topics, partitioning, Redis, twins, library and token: what is wrong, and what to do.

    Exit status 1 when anything is wrong.

    Example: `twin doctor`
    """
    from streams.doctor import examine

    findings = examine(settings())
    wrong = [f for f in findings if not f.ok]
    if as_json:
        show_json(json.dumps([f._asdict() for f in findings], indent=2, ensure_ascii=False))
    else:
        show_table(
            f"{len(wrong)} of {len(findings)} checks failed" if wrong else "All is well",
            ("", "check", "found"),
            (("ok" if f.ok else "WRONG", f.check, f.found) for f in findings),
        )
    raise typer.Exit(1 if wrong else 0)
