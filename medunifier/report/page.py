"""The page: one HTML file that holds its style and figures and loads nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

FOLDER = Path(__file__).parent


def render_page(content: Mapping[str, Any]) -> str:
    """Return the HTML of the page; the names in `content` are the variables of page.html."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"decimals": decimals, "count": count, "percent": percent}
    style = Markup((FOLDER / "page.css").read_text(encoding="utf-8"))
    return environment.get_template("page.html").render(style=style, **content)


def decimals(value: float, digits: int) -> str:
    """Return a number with so many decimals and a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def count(value: float) -> str:
    """Return a whole number, thousands separated by thin spaces."""
    return f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def percent(share: float, digits: int = 0) -> str:
    """Return a share (0 to 1) in percent."""
    return f"{100 * share:.{digits}f} %"
