# Sourced by the scripts: makes a bare Debian machine ready for the lab, and says what it does.
# Only what is missing is installed; no service is started, and none will be at the next boot.
# shellcheck shell=bash
#
#   setup_as_root "$@"    start the calling script again as root where it is not
#   setup_lab             packages for hosts and initiators
#   setup_kernels         fetch kernels (and wait for them)
#   setup_checks          a virtual environment with pytest and the linters: $SETUP_PYTHON
#   setup_readable        where other users cannot read the checkout: $SETUP_ROOT is a copy of it
#
# Without setup_checks, $SETUP_PYTHON is the system's Python: the lab needs nothing else.

SETUP_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
SETUP_PYTHON=/usr/bin/python3
SETUP_PACKAGES=(
    git python3 python3-venv python3-dbus python3-gi python3-yaml python3-jsonschema dbus
    systemd udev openssh-client openssh-server
    python3-rtslib-fb python3-configshell-fb targetcli-fb
    iproute2 kmod patchelf dmsetup
    libiscsi-bin open-iscsi sg3-utils polkitd groff-base tmux
    qemu-system-x86 busybox-static
)
# Of these, what they would start at the next boot stays switched off: this machine is no target
# and no initiator because it tests some.
SETUP_QUIET=(open-iscsi python3-rtslib-fb targetcli-fb openssh-server)

PATH=$PATH:/usr/sbin:/sbin
HOME=${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}
export PATH HOME

setup_say() { printf 'setup: %s\n' "$*" >&2; }
setup_die() { setup_say "$*"; exit 1; }

setup_cache() {
    SETUP_CACHE=${LIO_HANDOVER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lio-handover}
    mkdir -p "$SETUP_CACHE"
    SETUP_CACHE=$(cd "$SETUP_CACHE" && pwd)
    # Beside the kernels, and not as root's files in somebody's checkout.
    export LIO_HANDOVER_CACHE=$SETUP_CACHE
    export PYTHONPYCACHEPREFIX=$SETUP_CACHE/pycache MYPY_CACHE_DIR=$SETUP_CACHE/mypy
    export HYPOTHESIS_STORAGE_DIRECTORY=$SETUP_CACHE/hypothesis
}

setup_as_root() {
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null ||
            setup_die "hosts need network namespaces: run this as root, or install sudo"
        setup_say "hosts need network namespaces: going on with sudo"
        setup_cache
        exec sudo "LIO_HANDOVER_CACHE=$SETUP_CACHE" "CI=${CI-}" "${BASH:-bash}" "$0" "$@"
    fi
    setup_cache
}

# One set-up at a time; the lock is dropped with the shell that holds it.
setup_locked() {
    (
        exec 9>"$SETUP_CACHE/setup.lock"
        flock -n 9 || { setup_say "waiting for another set-up"; flock 9; }
        "$@" 9>&-
    )
}

setup_lab() { setup_locked setup_install; setup_check_machine; }

setup_install() {
    local package missing=() log=$SETUP_CACHE/apt.log
    command -v apt-get >/dev/null || setup_die "this is no Debian machine: apt-get is missing"
    for package in "${SETUP_PACKAGES[@]}"; do
        [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] ||
            missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    setup_say "installing ${missing[*]} (log: $log)"
    if ! setup_apt "${missing[@]}" >"$log" 2>&1 </dev/null; then
        tail -n 20 "$log" >&2
        setup_die "apt could not install them"
    fi
}

setup_apt() {
    local package unit policy=/usr/sbin/policy-rc.d ours=
    # The one way to tell packages not to start anything; a policy of the machine's own stays.
    if [ ! -e "$policy" ]; then
        ours=$policy
        # shellcheck disable=SC2064
        trap "rm -f '$policy'" EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    apt-get -q update &&
        DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=600 \
            install --no-install-recommends "$@" || return
    [ -z "$ours" ] || rm -f "$ours"
    for package in "${SETUP_QUIET[@]}"; do
        # Only what was installed just now: before that, it was somebody's decision.
        [[ " $* " == *" $package "* ]] || continue
        for unit in $(dpkg -L "$package" | sed -nE 's,^(/usr)?/lib/systemd/system/([^/@]+)$,\2,p')
        do
            # As the package's own script would; systemctl may not be there, or not be running.
            DPKG_MAINTSCRIPT_PACKAGE=$package deb-systemd-helper disable "$unit" || true
        done
    done
}

setup_check_machine() {
    [ "$(uname -m)" = x86_64 ] || setup_die "the lab's kernels are for x86-64 only"
    if [ ! -c /dev/net/tun ]; then
        mkdir -p /dev/net
        mknod /dev/net/tun c 10 200 2>/dev/null || true
    fi
    (: <>/dev/net/tun) 2>/dev/null || setup_die "cannot open /dev/net/tun: hosts need a network"
    unshare --net true 2>/dev/null || setup_die "may not make network namespaces here"
}

# Tests run the code as other users too, and as root without its capabilities: in a home of mode
# 0700, or cloned with umask 077, those cannot read it.  The copy, $SETUP_COPY, ends with the
# calling script.
setup_readable() {
    local nobody=65534
    setpriv --reuid="$nobody" --regid="$nobody" --clear-groups \
        test -r "$SETUP_ROOT/scripts/test" && return
    SETUP_COPY=$(mktemp -d /tmp/lio-handover.XXXXXX)
    # shellcheck disable=SC2064
    trap "rm -rf '$SETUP_COPY' '$PYTHONPYCACHEPREFIX$SETUP_COPY'" EXIT
    trap 'exit 143' TERM    # after pytest, which reads the copy
    setup_say "other users cannot read $SETUP_ROOT: its tests run from a copy, $SETUP_COPY"
    tar --create --directory "$SETUP_ROOT" --exclude ./.git --owner 0 --group 0 \
        --mode u=rwX,go=rX . | tar --extract --preserve-permissions --directory "$SETUP_COPY"
    export LIO_HANDOVER_REPOSITORY=$SETUP_ROOT     # which has the history, see tests/support/neighbour.py
    SETUP_ROOT=$SETUP_COPY
}

setup_kernels() { (cd "$SETUP_ROOT" && "$SETUP_PYTHON" -m tests.lab --fetch); }

setup_checks() {
    local wanted
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null ||
        setup_die "python3-venv is not installed; scripts/test installs it"
    wanted=$(cat "$SETUP_ROOT"/scripts/lib/{requirements,rtslib}.txt <(/usr/bin/python3 -V) |
        sha256sum)
    # One folder for each wish: another checkout of another age may be using its own.
    SETUP_VENV=$SETUP_CACHE/venv-${wanted:0:12}
    setup_locked setup_venv
    SETUP_PYTHON=$SETUP_VENV/bin/python
}

setup_venv() {
    local log=$SETUP_CACHE/pip.log
    # The stamp comes last: what was interrupted is made anew.
    [ ! -e "$SETUP_VENV/complete" ] || return 0
    setup_say "making a virtual environment with pytest and linters (log: $log)"
    rm -rf "$SETUP_VENV"
    if ! { /usr/bin/python3 -m venv --system-site-packages "$SETUP_VENV" &&
        "$SETUP_VENV/bin/python" -m pip install --quiet --disable-pip-version-check \
            --requirement "$SETUP_ROOT/scripts/lib/requirements.txt" &&
        # Beside the distribution's, for targetctl alone: tests restore with both.
        "$SETUP_VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
            --target "$SETUP_VENV/rtslib" --requirement "$SETUP_ROOT/scripts/lib/rtslib.txt"
    } >"$log" 2>&1 </dev/null
    then
        tail -n 20 "$log" >&2
        setup_die "pip could not install them"
    fi
    touch "$SETUP_VENV/complete"
}
