"""Prints the layers of setup.cfg, top to bottom: modules, lines and the largest module of each."""
from __future__ import annotations

import configparser
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
PACKAGE = CHECKOUT / "lio_handover"


def layers() -> list[str]:
    """The names of the layers, those beside each other apart by `|`."""
    found = configparser.ConfigParser()
    found.read(CHECKOUT / "setup.cfg")
    return found["importlinter:contract:layers"]["layers"].split("\n")[1:]


def main() -> None:
    for number, layer in enumerate(layers(), 1):
        for name in (word.strip() for word in layer.split("|")):
            folder = PACKAGE / name
            files = sorted(folder.rglob("*.py")) if folder.is_dir() else [PACKAGE / f"{name}.py"]
            lines = {path: len(path.read_text().splitlines()) for path in files}
            modules = {path: count for path, count in lines.items() if path.stem != "__init__"}
            largest = max(lines, key=lambda path: lines[path])
            print(f"{number:>3}  {name:<14}{len(modules) or 1:>3} modules {sum(lines.values()):>6} "
                  f"lines, largest {largest.relative_to(PACKAGE)} ({lines[largest]})")


if __name__ == "__main__":
    main()
