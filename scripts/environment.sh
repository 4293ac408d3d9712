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

# servers: what the tests start, browser included.
servers() {
    programs rabbitmq-server memcached postgresql=postgres chromium chromium-driver=chromedriver curl
}

# programs PACKAGE[=PROGRAM]...: install the Debian packages whose programs are missing.
programs() {
    local wanted missing=()
    local PATH="$PATH:/usr/sbin$(printf ':%s' /usr/lib/postgresql/*/bin)"
    for wanted in "$@"; do
        command -v "${wanted#*=}" >/dev/null || missing+=("${wanted%=*}")
    done
    [ "${#missing[@]}" = 0 ] || debian_packages "${missing[@]}"
}

# debian_packages NAME...: install what is missing, as root or with sudo.
debian_packages() {
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update --quiet=2
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install --quiet=2 --yes --no-install-recommends "$@"
}
