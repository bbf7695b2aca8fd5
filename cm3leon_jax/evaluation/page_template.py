"""Pages that are one HTML file: templates/ filled in, and written whole or not at all."""

import os
from pathlib import Path

import jinja2
import markupsafe

FOLDER = Path(__file__).parent / "templates"


def get(name: str) -> jinja2.Template:
  """A template of templates/. Whatever is put into it is escaped, unless it says that it is HTML."""
  environment = jinja2.Environment(
    loader=jinja2.FileSystemLoader(FOLDER),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  return environment.get_template(name)


def css(*names: str) -> markupsafe.Markup:
  """The text of style sheets of templates/, in this order."""
  return markupsafe.Markup("\n".join((FOLDER / name).read_text(encoding="utf-8") for name in names))


def write(path: str | os.PathLike, text: str) -> Path:
  """Writes a page; a reader sees the old one or the new one, never half of it."""
  path = Path(path)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_name(path.name + ".partial")
  temporary.write_text(text, encoding="utf-8")
  os.replace(temporary, path)
  return path
