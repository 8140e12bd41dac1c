#!/bin/bash
# rtslib-fb 2.2.4 (from the wheel): `rtslib` and `rtslib_fb` are two copies of one library, not two names of one.  Seen:
# rtslib.RTSLibError is not rtslib_fb.RTSLibError, so that `except rtslib.RTSLibError` lets pass what a function of
# rtslib_fb raises.  One would expect the old name to be an alias.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check rtslib-fb==2.2.4 pyudev==0.24.3
seen=$("$folder/venv/bin/python" - <<'PYTHON'
import rtslib
import rtslib_fb
from rtslib.utils import normalize_wwn as old
from rtslib_fb.utils import normalize_wwn as new

print("one error class:", rtslib.RTSLibError is rtslib_fb.RTSLibError)
for name, normalize_wwn in (("rtslib", old), ("rtslib_fb", new)):
    try:
        normalize_wwn(["iqn"], "iqn.no-date:disk")
    except rtslib.RTSLibError:
        print(name, "raises rtslib's")
    except rtslib_fb.RTSLibError:
        print(name, "raises rtslib_fb's")
PYTHON
)
echo "$seen"
wanted="one error class: False
rtslib raises rtslib's
rtslib_fb raises rtslib_fb's"
[ "$seen" = "$wanted" ] || { echo "it is not as it was seen" >&2; exit 1; }
