"""The page: one HTML file that holds its style and figures and asks for nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent


def render_page(content: Mapping[str, Any]) -> str:
    """The whole HTML for what `stages.summarize` has gathered; the names in `content` are those of page.html."""
    import jinja2
    from markupsafe import Markup

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
    """A number with so many decimals and a true minus sign."""
    return f"{value:.{digits}f}".replace("-", "\N{MINUS SIGN}")


def count(value: float) -> str:
    """A whole number, thousands parted by thin spaces."""
    return f"{int(value):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f} %"
