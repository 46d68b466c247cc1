"""The dashboard: pages over the same rows that the API reads."""

from fastapi import FastAPI


def add_dashboard(app: FastAPI) -> None:
    """Adds the pages and their static files to the application."""
