# Sourced by the other scripts, from the top of the checkout.

# environment EXTRAS [FOLDER]: make FOLDER, or .venv, an environment that holds this package with
# EXTRAS, as setup.cfg has them now.
environment() {
    local folder=${2:-.venv}
    local stamp="$folder/.installed-$1"
    if [ -e "$stamp" ] && [ "$stamp" -nt setup.cfg ]; then
        return
    fi
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        debian_packages python3 python3-venv
    fi
    [ -x "$folder/bin/python" ] || python3 -m venv "$folder"
    "$folder/bin/python" -m pip install --quiet --editable ".[$1]"
    touch "$stamp"
}

# servers: what the tests start, browser included.
servers() {
    programs rabbitmq-server memcached postgresql=postgres pgbouncer chromium chromium-driver=chromedriver curl
    promtool
}

# promtool: what checks rules for Prometheus, out of Debian's package, without the server in it.
promtool() {
    local folder sudo=""
    [ -x .venv/bin/promtool ] || type -P promtool >/dev/null && return
    [ "$(id -u)" = 0 ] || sudo=sudo
    folder=$(mktemp -d)
    (
        cd "$folder"
        # The lists of packages may be old, or not there at all.
        apt-get download --quiet=2 prometheus 2>/dev/null ||
            { $sudo apt-get update --quiet=2 && apt-get download --quiet=2 prometheus; }
        dpkg-deb --extract ./*.deb .
    )
    mv "$folder/usr/bin/promtool" .venv/bin/
    rm -r "$folder"
}

# store_servers: what the tests of the stores need: an environment with the drivers, what builds
# them, and the servers.
store_servers() {
    programs mariadb-server=mariadbd libmariadb-dev=mariadb_config pkg-config gcc \
        python3-dev=python3-config nodejs=node npm
    environment stores .venv-stores
    from_npm azurite@3.37.0 dynalite@4.0.0 pouchdb-server@4.2.0
}

# from_npm NAME@VERSION...: make .servers hold these packages, and no others.
from_npm() {
    local stamp=".servers/.installed"
    [ "$(cat "$stamp" 2>/dev/null)" != "$*" ] || return 0
    rm -rf .servers
    mkdir .servers
    # Their scripts would build what these servers do without.
    npm install --prefix .servers --ignore-scripts --no-audit --no-fund --loglevel=error "$@"
    echo "$*" >"$stamp"
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
