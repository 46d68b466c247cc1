"""The command line. Commands import what they need when they run, so that `--help` is instant.

Exit codes: see EXIT_CODES, which `archsmith --help` shows.
"""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer

from server import cli_data, cli_memory

if TYPE_CHECKING:
    from server.client import Client

EXIT_CODES = (
    "Exit codes: 0 done; 1 the job or the server failed; 2 the request was wrong (usage, a file, an id, "
    "what the server refuses); 3 no Archsmith server answers."
)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help=f"Neural architecture search as a service.\n\n{EXIT_CODES}",
)
db = typer.Typer(no_args_is_help=True, help="The database.")
app.add_typer(db, name="db")
app.add_typer(cli_data.app, name="data")
app.add_typer(cli_memory.app, name="memory")

FAILED, USAGE, UNREACHABLE = 1, 2, 3
NOT_FOUND = 404

JobId = Annotated[str, typer.Argument(help="Its id, or the beginning of it.")]
Url = Annotated[str, typer.Option(envvar="ARCHSMITH_URL", help="Address of the server.")]
Key = Annotated[str, typer.Option(envvar="ARCHSMITH_API_KEY", help="API key.", show_default=False)]
Host = Annotated[str | None, typer.Option(help="Address to listen on.", show_default="127.0.0.1")]
Port = Annotated[int | None, typer.Option(help="Port to listen on.", show_default="8000")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
HOME = "http://127.0.0.1:8000"


def main() -> None:
    """The entry point: turns the errors that users can act on into a message and an exit code."""
    try:
        app()
    except ValueError as error:
        from server.store.settings import explained

        _stop(explained(error), USAGE)
    except RuntimeError as error:
        _stop(str(error), USAGE if 400 <= getattr(error, "status", 0) < 500 else FAILED)
    except ConnectionError as error:
        _stop(str(error), UNREACHABLE)
    except OSError as error:
        if error.filename is None:
            raise
        _stop(f"{error.filename}: {error.strerror}", USAGE)


def _stop(message: str, code: int) -> NoReturn:
    typer.echo(f"archsmith: {message}", err=True)
    raise SystemExit(code)


# -------------------------------------------------------------------- serving


@app.command()
def serve(
    host: Host = None,
    port: Port = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of the database and all files.")] = None,
) -> None:
    """Serve everything on this machine: API, dashboard, worker."""
    from server.serve import serve as run

    _log_to_stderr()
    run(_server_settings(host=host, port=port, data_dir=data_dir), worker=True, migrate=True)


@app.command()
def api(host: Host = None, port: Port = None) -> None:
    """Serve the API and the dashboard alone; workers run elsewhere."""
    from server.serve import serve as run

    _log_to_stderr()
    run(_server_settings(host=host, port=port), worker=False, migrate=False)


@app.command()
def worker() -> None:
    """Claim jobs and run them."""
    import os

    # by command and not by import: the server knows nothing of what computes
    os.execv(sys.executable, [sys.executable, "-m", "workers"])


@db.command("upgrade")
def db_upgrade() -> None:
    """Bring the database's schema to this version."""
    from server.store.engine import upgrade
    from server.store.settings import StoreSettings

    upgrade(StoreSettings().store().engine)


def _server_settings(**given: Any) -> Any:
    """The settings, with what the command line gives in place of the environment's."""
    from server.settings import ServerSettings

    return ServerSettings(**{name: value for name, value in given.items() if value is not None})


def _log_to_stderr() -> None:
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("httpx").setLevel(logging.WARNING)


# -------------------------------------------------------------------- jobs


@app.command()
def submit(
    file: Annotated[Path, typer.Argument(help="The request as JSON; - for standard input.")],
    watch: Annotated[bool, typer.Option(help="Follow the job until it ends.")] = False,
    idempotency_key: str = "",
    url: Url = HOME,
    api_key: Key = "",
    as_json: AsJson = False,
) -> None:
    """Submit a job."""
    with _client(url, api_key) as client:
        job = client.submit(_read_request(file), idempotency_key=idempotency_key)
        if watch:
            _watch(client, job["id"], as_json)
        elif as_json:
            _print_json(job)
        else:
            typer.echo(f"{job['id']}  {client.url}/jobs/{job['id']}")


def _read_request(file: Path) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text()
        request = json.loads(text)
    except OSError as error:
        _stop(f"cannot read {file}: {error.strerror}", USAGE)
    except ValueError as error:
        _stop(f"{file} is not JSON: {error}", USAGE)
    if not isinstance(request, dict):
        _stop(f"{file}: a request is a JSON object", USAGE)
    return request


@app.command()
def jobs(
    state: str = "",
    method: str = "",
    limit: int = 20,
    url: Url = HOME,
    api_key: Key = "",
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    filters = {name: value for name, value in {"state": state, "method": method}.items() if value}
    with _client(url, api_key) as client:
        rows = client.jobs(limit=limit, **filters)
    if as_json:
        _print_json(rows)
        return
    from server.terminal import print_jobs

    print_jobs(rows)


@app.command()
def show(job_id: JobId, url: Url = HOME, api_key: Key = "", as_json: AsJson = False) -> None:
    """Show one job: its state, and the best candidate so far."""
    with _client(url, api_key) as client:
        job_id = _whole(client, job_id)
        job = client.job(job_id)
        best = _best(client, job_id)
    if as_json:
        _print_json({**job, "best": best})
        return
    from server.terminal import print_job

    print_job(job, best, client.url)


def _best(client: "Client", job_id: str) -> dict[str, Any] | None:
    from server.client import ApiError

    try:
        return client.best(job_id)
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
        return None


@app.command()
def watch(job_id: JobId, url: Url = HOME, api_key: Key = "", as_json: AsJson = False) -> None:
    """Follow a job live until it ends. Exit code 1 when it does not succeed."""
    with _client(url, api_key) as client:
        _watch(client, _whole(client, job_id), as_json)


def _watch(client: "Client", job_id: str, as_json: bool) -> None:
    if as_json:
        for event in client.events(job_id):
            typer.echo(json.dumps(event))
    else:
        from server.terminal import follow

        follow(client, job_id)
    job = client.job(job_id)
    if job["state"] != "succeeded":
        _stop(f"job {job_id} {job['state']}{': ' + job['reason'] if job['reason'] else ''}", FAILED)


@app.command()
def cancel(job_id: JobId, url: Url = HOME, api_key: Key = "", as_json: AsJson = False) -> None:
    """Cancel a job."""
    with _client(url, api_key) as client:
        _print_state(client.cancel(_whole(client, job_id)), as_json)


@app.command()
def pause(job_id: JobId, url: Url = HOME, api_key: Key = "", as_json: AsJson = False) -> None:
    """Let a job's running trials finish, and begin no more."""
    with _client(url, api_key) as client:
        _print_state(client.pause(_whole(client, job_id)), as_json)


@app.command()
def resume(job_id: JobId, url: Url = HOME, api_key: Key = "", as_json: AsJson = False) -> None:
    """Go on with a paused job."""
    with _client(url, api_key) as client:
        _print_state(client.resume(_whole(client, job_id)), as_json)


@app.command()
def export(
    job_id: JobId,
    out: Annotated[Path | None, typer.Option(help="The ZIP file to write; JOB_ID.zip if left out.")] = None,
    candidate: Annotated[str, typer.Option(help="A candidate of the job; its best if left out.")] = "",
    format: Annotated[
        Literal["torch", "onnx"], typer.Option(help="`onnx` for what a train job has trained.")
    ] = "torch",
    url: Url = HOME,
    api_key: Key = "",
) -> None:
    """Save a job's network: its architecture, and its weights where it was trained."""
    with _client(url, api_key) as client:
        job_id = _whole(client, job_id)
        chosen, target = candidate or client.best(job_id)["id"], out or Path(f"{job_id}.zip")
        typer.echo(client.export(chosen, target, format=format))


@app.command()
def sample(
    job_id: JobId,
    n: Annotated[int, typer.Option(min=1, help="How many images.")] = 64,
    out: Annotated[Path, typer.Option(help="The picture to write.")] = Path("samples.png"),
    steps: Annotated[int, typer.Option(min=1, help="Steps of the sampler.")] = 50,
    seed: int = 0,
    candidate: Annotated[str, typer.Option(help="A candidate of the job; its best if left out.")] = "",
    url: Url = HOME,
    api_key: Key = "",
) -> None:
    """Draw images, on this machine, from the diffusion model that a job has trained."""
    import subprocess
    import tempfile
    import zipfile

    if not out.parent.is_dir():  # told before the network is fetched and draws
        _stop(f"{out}: there is no folder {out.parent}", USAGE)
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        with _client(url, api_key) as client:
            chosen = candidate or client.best(_whole(client, job_id))["id"]
            bundle = client.export(chosen, Path(folder) / "export.zip")
        with zipfile.ZipFile(bundle) as archive:
            archive.extractall(folder)
        options = ["--out", str(out), "--n", str(n), "--steps", str(steps), "--seed", str(seed)]
        # by command and not by import: the server knows nothing of what computes
        drawing = subprocess.run([sys.executable, "-m", "workers.sample", folder, *options])
    if drawing.returncode != 0:
        raise SystemExit(USAGE if drawing.returncode == USAGE else FAILED)
    typer.echo(out)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
)
def bench(context: typer.Context) -> None:
    """Run a slow proof: `archsmith bench NAME [OPTIONS]`."""
    import os

    os.execv(sys.executable, [sys.executable, "-m", "workers.bench", *context.args])


@app.command()
def demo(
    data_dir: Annotated[Path, typer.Option(help="Folder of the database and all files.")] = Path("var"),
    evaluations: Annotated[int, typer.Option(min=2, help="Candidates to train, the baseline included.")] = 13,
) -> None:
    """Search a diffusion UNet on real digits, from an empty machine to a picture."""
    from server.demo import run_demo

    run_demo(data_dir, evaluations)


def _client(url: str, api_key: str) -> "Client":
    from server.client import Client

    return Client(url, api_key=api_key)


def _whole(client: "Client", given: str) -> str:
    """The id of the one job whose id begins like this; what is no beginning of any is left to the server."""
    from server.client import ID_LENGTH

    if not given.strip():
        _stop("a job's id is empty; `archsmith jobs` lists them", USAGE)
    if len(given) == ID_LENGTH:
        return given
    found = [job["id"] for job in client.jobs(text=given, limit=500) if job["id"].startswith(given)]
    if len(found) > 1:
        _stop(f"{len(found)} jobs have ids that begin with {given}: {', '.join(found[:5])}", USAGE)
    return found[0] if found else given


def _print_state(job: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(job)
    else:
        asked = f" ({job['request']} requested)" if job["request"] else ""
        typer.echo(f"{job['id']} {job['state']}{asked}")


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2))


if __name__ == "__main__":
    main()
