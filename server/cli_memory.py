"""`archsmith memory ...`: what searches have measured, to a file and back."""

import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="What searches have measured, as JSON lines.")

Url = Annotated[str, typer.Option(envvar="ARCHSMITH_URL", help="Address of the server.")]
Key = Annotated[str, typer.Option(envvar="ARCHSMITH_API_KEY", help="API key.", show_default=False)]
HOME = "http://127.0.0.1:8000"


@app.command("export")
def export_memory(
    out: Annotated[Path, typer.Argument(help="The file to write; - for standard output.")] = Path("-"),
    space: str = "",
    dataset: str = "",
    signature: Annotated[str, typer.Option(help="How it was measured, or how that begins.")] = "",
    url: Url = HOME,
    api_key: Key = "",
) -> None:
    """Save every attempt that has ended."""
    from server.client import Client

    filters = {"space": space, "dataset": dataset, "signature": signature}
    chosen = {name: value for name, value in filters.items() if value}
    with Client(url, api_key=api_key) as client:
        if str(out) == "-":
            for chunk in client.export_memory(**chosen):
                sys.stdout.buffer.write(chunk)
            return
        part = out.with_name(out.name + ".part")  # a broken download leaves no file that looks whole
        with part.open("wb") as file:
            for chunk in client.export_memory(**chosen):
                file.write(chunk)
        part.replace(out)


@app.command("import")
def import_memory(
    file: Annotated[Path, typer.Argument(help="JSON lines; - for standard input.")],
    url: Url = HOME,
    api_key: Key = "",
) -> None:
    """Take attempts in, for reuse and for warm starts: all of the file, or nothing of it."""
    from server.client import Client

    try:
        lines = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from error
    with Client(url, api_key=api_key) as client:
        jobs = client.import_memory(lines)
    for job in jobs:
        typer.echo(f"{job['id']}  {job['name']}: {job['space']} on {job['dataset']}")
    if not jobs:
        typer.echo("all of it is remembered already")
