"""Commands that run something: the demo, everything at once, a worker, the API, ticks."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Annotated, Any

import typer

from streams.cli.application import AsJson, UserError, app, say, settings

RUNNING = "Run"


@app.command(rich_help_panel=RUNNING)
def demo(
    seed: Annotated[int, typer.Option(help="Of the virtual ward; the real patients stay who they are.")] = 1,
    serve: Annotated[bool, typer.Option("--serve", help="Stay up afterwards, until Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Real patients and a virtual ward through a real Kafka, worker, Redis and API, from nothing to a summary.

    Example: `twin demo --seed 7 --serve`
    """
    raise typer.Exit(_part("streams.demo.run", "run_demo", "demo")(seed, serve=serve, as_json=as_json))


@app.command(rich_help_panel=RUNNING)
def up(
    directory: Annotated[Path, typer.Option(help="Data of Kafka and Redis, kept between runs; logs.")] = Path(
        "build/up"
    ),
) -> None:
    """Everything on this machine (Kafka, Redis, worker, API), with data that stays, until Ctrl-C.

    Example: `twin up`, and in another window `. build/up/environment; twin publish records.ndjson`
    """
    raise typer.Exit(_part("streams.demo.run", "run_up", "embedded")(directory))


@app.command(rich_help_panel=RUNNING)
def worker() -> None:
    """A worker: takes partitions of the input topic, keeps their twins, publishes risk. Stop it with SIGTERM.

    Exit status 75: another worker runs under the same instance id; give each its own (kafka.instance_id), and its own
    port for Prometheus (worker.metrics_port; 0 for none). 78: mend what the log names, then start it. 70: start it
    again. 65: the log lost records before they were read.

    Example: `TWIN_KAFKA__INSTANCE_ID=worker-2 TWIN_WORKER__METRICS_PORT=9465 twin worker`
    """
    from streams.worker_metrics import serve_metrics

    chosen = settings()
    observe = serve_metrics(chosen.worker.metrics_host, chosen.worker.metrics_port)
    raise typer.Exit(_part("streams.worker", "run_worker", None)(chosen, observe))


@app.command(rich_help_panel=RUNNING)
def serve() -> None:
    """The HTTP API, on loopback unless the settings say otherwise; it asks for the token in web.token_file.

    With intake.token_file set it also takes records (POST /v1/records) from who holds that token.

    Example: `twin serve`, then
    `curl -H "Authorization: Bearer $(cat build/api-token)" http://127.0.0.1:8080/v1/risks`
    """
    from streams.serve import serve as run

    chosen = settings()
    run(chosen, lambda url: say(f"API on {url}, token in {chosen.web.token_file}"))


@app.command(rich_help_panel=RUNNING)
def mqtt() -> None:
    """A bridge: records from an MQTT 5 broker (section mqtt of the settings) to the input topic, each at least once.

    One message is one record. It is acknowledged to the MQTT broker when all replicas of Kafka hold it; what is no
    record ends as a dead letter with its MQTT topic. SIGTERM finishes what is on its way. Exit status 70: start it
    again; 75: another bridge has the same mqtt.client_id; 2: mend the setting that is named.

    Example: `TWIN_MQTT__HOST=mqtt.example.org TWIN_MQTT__TOPIC='ward-3/+/records' twin mqtt`
    """
    raise typer.Exit(_part("streams.bridge", "run_bridge", None)(settings()))


@app.command(rich_help_panel=RUNNING)
def ticks(
    once: Annotated[bool, typer.Option("--once", help="Look once and end, as for cron.")] = False,
) -> None:
    """Let time pass for patients of whom nobody sends: hourly tick records, so that forecasts and staleness move on.

    Several may run: the same tick sent twice is a duplicate and has no effect.

    Example: `twin ticks`
    """
    from streams.ticks import run_ticks

    run_ticks(settings(), once=once, told=say)


def _part(module: str, name: str, extra: str | None) -> Any:
    """A function of a part that may not be installed."""
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as missing:
        if extra is None or (missing.name or "").startswith(("streams", "twinstate")):
            raise
        raise UserError(
            f"{missing.name} is not installed; this command needs the extra: pip install 'twin-updater[{extra}]'"
        ) from missing
