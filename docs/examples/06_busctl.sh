#!/bin/sh
# The service by busctl: its interface, its targets, and what a verb answers.
#     06_busctl.sh TARGET
# busctl passes descriptors since systemd 257; this needs none, so older ones do as well: documents
# and messages go by Upload and Read, see docs/usage/d-bus.md.
set -eu
target=$1
name=io.github.lio_handover1 root=/io/github/lio_handover1
call() { busctl --timeout=600 call $name "$@"; }

busctl introspect $name $root $name.Manager
call $root $name.Manager ListTargets 'a{sv}' 0

job=$(call $root $name.Manager Show 'asa{sv}' 1 "$target" 0 | cut -d'"' -f2)
state=$(call "$job" $name.Job Wait 'ta{sv}' 0 0) # 0: for as long as it takes
if [ "$state" != 's "done"' ]; then
    busctl get-property $name "$job" $name.Job Error >&2
    exit 1
fi
# The data, as numbers: here the answer of `lio-handover show --json`.
size=$(busctl get-property $name "$job" $name.Job Size | cut -d' ' -f2)
call "$job" $name.Job Read 'tua{sv}' 0 "$size" 0 | cut -d' ' -f3- | tr ' ' '\n' |
    LC_ALL=C awk '{ printf "%c", $1 + 0 }'
call "$job" $name.Job Release 'a{sv}' 0
