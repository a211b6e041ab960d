"""The page of the server: one HTML file that loads nothing but what this server serves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hypermend.pipeline.report.page import content_policy, drawing_script, page_style

_HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class BrowserPage:
    """The page and its Content-Security-Policy."""

    body: bytes
    policy: str


def browser_page(archive: str | None) -> BrowserPage:
    """Make the page.

    Args:
        archive: what commands on the page name as the archive; None where its readers are not on this machine.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined)
    style = page_style() + (_HERE / "browse.css").read_text()
    script = drawing_script() + (_HERE / "browse.js").read_text()
    text = environment.get_template("browse.html").render(style=style, script=script, archive=archive or "ARCHIVE")
    policy = content_policy(style, script, sources="img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'")
    return BrowserPage(body=text.encode(), policy=policy)
