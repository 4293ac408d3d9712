# Sourced by the other scripts, from the top of the checkout.

# environment EXTRAS: make .venv hold this package with EXTRAS, as setup.cfg has them now.
environment() {
    local stamp=".venv/.installed-$1"
    if [ -e "$stamp" ] && [ "$stamp" -nt setup.cfg ]; then
        return
    fi
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        debian_packages python3 python3-venv
    fi
    [ -x .venv/bin/python ] || python3 -m venv .venv
    .venv/bin/python -m pip install --quiet --editable ".[$1]"
    touch "$stamp"
}

# debian_packages NAME...: install what is missing, as root or with sudo.
debian_packages() {
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update --quiet=2
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install --quiet=2 --yes --no-install-recommends "$@"
}

# program NAME PACKAGE: see that there is a program, from its Debian package where it is not there.
program() {
    PATH="$PATH:/usr/sbin" command -v "$1" >/dev/null || debian_packages "$2"
}
