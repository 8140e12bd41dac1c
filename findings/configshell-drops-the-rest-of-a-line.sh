#!/bin/bash
# configshell-fb 2.0.0 (targetcli's shell): a command line that holds a quote, or a letter outside ASCII, is run
# without all that follows it, and nothing is said.  One would expect quoting as in other shells, or an error.
# Seen: `create name="my disk" size=1M` runs create with an empty name and no size; `note=a"b size=1M` and
# `note=ä size=1M` lose the size, too.  A size that is lost so is the default's, on somebody's storage.
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
        print("create", ascii(name), ascii(size), ascii(note))


shell = ConfigShell(sys.argv[1])
Root(shell)
for line in ("create disk0 size=1M", 'create name="my disk" size=1M',
             'create disk0 note=a"b size=1M', "create disk0 note=\u00e4 size=1M"):
    shell.run_cmdline(line)
PYTHON
seen=$("$folder/venv/bin/python" "$folder/shell.py" "$folder/preferences")
wanted="create 'disk0' '1M' None
create '' None None
create 'disk0' None 'a'
create 'disk0' None ''"
echo "$seen"
[ "$seen" = "$wanted" ] || { echo "it is not as it was seen" >&2; exit 1; }
