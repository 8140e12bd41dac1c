#!/bin/bash
# configshell-fb 2.0.0 (targetcli's shell): `name=` with nothing behind it does not give an empty value, it takes the
# next word for one, which is then no parameter of its own.  Seen: `create disk0 note= size=1M` runs create with the
# note "size=1M" and no size.  One would expect an empty note, and the size.  At the end of a line it is empty.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check configshell-fb==2.0.0 pyparsing==3.3.3
cat >"$folder/shell.py" <<'PYTHON'
import sys

from configshell_fb import ConfigNode, ConfigShell


class Root(ConfigNode):
    def __init__(self, shell):
        super().__init__("/", shell=shell)

    def ui_command_create(self, name, size=None, note=None):
        print("create", repr(name), repr(size), repr(note))


shell = ConfigShell(sys.argv[1])
Root(shell)
shell.run_cmdline("create disk0 note= size=1M")
shell.run_cmdline("create disk0 size=1M note=")
PYTHON
seen=$("$folder/venv/bin/python" "$folder/shell.py" "$folder/preferences")
echo "$seen"
wanted="create 'disk0' None 'size=1M'
create 'disk0' '1M' ''"
[ "$seen" = "$wanted" ] || { echo "it is not as it was seen" >&2; exit 1; }
