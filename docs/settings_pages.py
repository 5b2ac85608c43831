"""Write config.toml and README's table of settings from stackd/settings.py (`make docs`).

Takes nothing, rewrites the two files in place; tests/test_docs.py fails where they lag behind.
"""

import json
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from stackd.settings import Settings

ROOT = Path(__file__).parent.parent
BEGIN = "<!-- settings: begin (written by `make docs`) -->"
END = "<!-- settings: end -->"

CONFIG_HEAD = """\
# All settings of stackd with their defaults; a file with only the lines that differ does as well.
# Relative paths are relative to this file. STACKD_SECTION__KEY in the environment wins over it, as in
# STACKD_SET__FRAMES=16. `stackd check` says everything that is wrong with it.
"""


def config_toml() -> str:
    """The content of config.toml: every key at its default, with what it means and what it accepts."""
    blocks = [CONFIG_HEAD]
    for section, fields in _sections():
        lines = [_assignment(key, info) for key, info in fields]
        width = min(max(len(line) for line in lines), 32)
        blocks.append(
            f"[{section}]\n"
            + "".join(f"{line:<{width}}  # {_meaning(info)}\n" for line, (_, info) in zip(lines, fields, strict=True))
        )
    return "\n".join(blocks)


def settings_table() -> str:
    """README's table of settings, in Markdown, without the markers around it."""
    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    for section, fields in _sections():
        for key, info in fields:
            meaning = _meaning(info).replace("|", "\\|")
            rows.append(f"| `{section}.{key}` | `{_toml(_written(info))}` | {meaning} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str) -> str:
    """The same README with the table between its markers made anew."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{settings_table()}{END}{after}"


def _sections() -> list[tuple[str, list[tuple[str, FieldInfo]]]]:
    return [(name, list(info.annotation.model_fields.items())) for name, info in Settings.model_fields.items()]


def _assignment(key: str, info: FieldInfo) -> str:
    """`key = default`, where "" stands for nothing."""
    return f"{key} = {_toml(_written(info))}"


def _written(info: FieldInfo) -> Any:
    """The default as config.toml has it: TOML knows no None."""
    return "" if info.default is None else info.default


def _toml(value: Any) -> str:
    """A plain value as TOML writes it, which for these kinds is as JSON does."""
    return json.dumps(str(value) if isinstance(value, Path) else value)


def _meaning(info: FieldInfo) -> str:
    accepts = _accepts(info)
    return f"{info.description} ({accepts})" if accepts else str(info.description)


def _accepts(info: FieldInfo) -> str:
    """What a key may be, in words: its choices or its range; empty where anything goes."""
    if get_origin(info.annotation) is Literal:
        choices = [json.dumps(choice) for choice in get_args(info.annotation)]
        return " or ".join([", ".join(choices[:-1]), choices[-1]] if choices[1:] else choices)
    low = next((limit.ge for limit in info.metadata if hasattr(limit, "ge")), None)
    high = next((limit.le for limit in info.metadata if hasattr(limit, "le")), None)
    above = next((limit.gt for limit in info.metadata if hasattr(limit, "gt")), None)
    if high is not None:
        return f"{low:g} to {high:g}" if low is not None else f"more than {above:g}, at most {high:g}"
    if low is not None:
        return f"{low:g} or more"
    return f"more than {above:g}" if above is not None else ""


def main() -> None:
    (ROOT / "config.toml").write_text(config_toml(), "utf-8")
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text("utf-8")), "utf-8")


if __name__ == "__main__":
    main()
