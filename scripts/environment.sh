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

# servers: install the servers and the browser that the tests start, as far as they are missing.
servers() {
    local missing=()
    command -v memcached >/dev/null || missing+=(memcached)
    PATH="$PATH:/usr/sbin" command -v rabbitmq-server >/dev/null || missing+=(rabbitmq-server)
    compgen -G "/usr/lib/postgresql/*/bin/postgres" >/dev/null || missing+=(postgresql)
    command -v chromium >/dev/null || missing+=(chromium)
    command -v chromedriver >/dev/null || missing+=(chromium-driver)
    [ "${#missing[@]}" = 0 ] || debian_packages "${missing[@]}"
}

# debian_packages NAME...: install what is missing, as root or with sudo.
debian_packages() {
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update --quiet=2
    DEBIAN_FRONTEND=noninteractive $sudo apt-get install --quiet=2 --yes --no-install-recommends "$@"
}
